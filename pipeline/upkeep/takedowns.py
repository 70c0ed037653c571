"""A list of what is to be removed, as people write it: one URL, uid, key or sha256 a line, or a CSV with a header."""

import csv
import re
from collections.abc import Iterator

from pairsift.pipeline.ledger.tombstones import KINDS
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder

_KINDS = frozenset({*KINDS, "key"})
_SHAPES = (
    ("url", re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+")),
    ("sha256", re.compile(r"[0-9A-Fa-f]{64}")),
    ("uid", re.compile(r"[0-9a-f]{32}")),
    ("key", re.compile(r"\d{1,19}")),
)


def read_list(path: str) -> list[tuple[str, str]]:
    """(kind, value) of each entry, in order; kinds are url, uid, key and sha256. Lines that are empty or begin with # are none.

    Of a CSV whose header names any of the kinds, each such column counts. Raises ConfigError for an entry that could be
    anything, and for a list without any.
    """
    parent, _, name = path.rpartition("/")
    try:
        lines = Folder(parent or ".").read(name).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, at byte {error.start}") from None
    header = [cell.strip().lower() for cell in next(csv.reader(lines[:1]), [])]
    found = list(_cells(header, lines[1:]) if _KINDS & set(header) else _lines(path, lines))
    if not found:
        raise ConfigError(f"{path}: names nothing to remove")
    return list(dict.fromkeys(found))


def _cells(header: list[str], lines: list[str]) -> Iterator[tuple[str, str]]:
    for row in csv.reader(lines):
        for kind, cell in zip(header, row, strict=False):
            if kind in _KINDS and cell.strip():
                yield _entry(kind, cell.strip())


def _lines(path: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        kind = next((kind for kind, shape in _SHAPES if shape.fullmatch(line)), None)
        if kind is None:
            raise ConfigError(
                f"{path}, line {number}: neither a URL with its scheme, nor a uid (32 hex digits), a key (digits) or a sha256; "
                "give the list a header line that names what its column holds: url, uid, key or sha256"
            )
        yield _entry(kind, line)


def _entry(kind: str, value: str) -> tuple[str, str]:
    if kind == "sha256":
        return kind, value.lower()
    return kind, f"{int(value):09d}" if kind == "key" and value.isdigit() else value
