"""Text of strangers (URLs, captions, file names) on its way to a terminal."""

from typing import Any


def printable(text: str) -> str:
    r"""The text with whatever a terminal might obey (control and escape characters, marks that turn the direction of writing)
    written out as \x1b, \u202e, …"""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def short(value: Any, most: int = 300) -> str:
    """A value on one line: a vector as its length, bytes as theirs, long text cut."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list) and len(value) > 16 and all(isinstance(item, float) for item in value):
        return f"{len(value):,} numbers"
    text = printable(str(value))
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
