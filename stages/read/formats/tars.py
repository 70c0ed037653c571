"""Webdataset tars as samples: where each member's bytes lie, and the bytes of the small ones. Images are skipped, not read.

Headers are read in tar_headers.py. A tar comes from anywhere: nothing in it is believed that does not lie within the file.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pairsift.stages.read.formats.tar_headers import DamagedError, Header, Window, headers
from pairsift.stages.sources import open_source

MAX_TEXT = 64 << 20  # bytes; a larger text or JSON member is not read
MAX_MEMBERS = 1000  # of one sample

# webdataset's rules (tariterators.base_plus_ext and tar_file_iterator), written out here because importing it loads torch.
_NAME = re.compile(rb"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)
_META = re.compile(rb"__[^/]*__($|/)")


class Member(NamedTuple):
    """Where one member's bytes lie in the tar."""

    offset: int  # of its first byte, in the tar
    length: int  # bytes
    data: bytes | None  # only of members that were asked for


class Sample(NamedTuple):
    """Consecutive members whose names agree up to the first dot after the last slash."""

    key: str  # bytes of the name that are not UTF-8 are replacement characters
    members: dict[str, Member]  # by what follows the dot, in lower case
    problem: str | None = None  # why it cannot be trusted


class Broken(NamedTuple):
    """The tar cannot be read from here on. `key` is the sample that was being read, if any."""

    key: str | None
    detail: str


def base_and_extension(name: bytes) -> tuple[bytes, bytes] | None:
    """`a.b/key` and `seg.jpg` of `a.b/key.seg.JPG`: split at the first dot of the file name; None where it has none."""
    start = name.rfind(b"/") + 1
    dot = name.find(b".", start)
    if dot > start:
        return name[:dot], name[dot + 1 :].lower()
    match = _NAME.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def samples(uri: str, texts: frozenset[str]) -> Iterator[Sample | Broken]:
    """The tar's samples in order, with the bytes of members whose extension is in `texts`.

    A damaged tar gives its whole samples up to the damage, then one `Broken`. Members that are no regular files, that have no
    extension or are webdataset's own (`__…__`) are passed over.
    """
    with open_source(uri, decompress=False, buffered=False) as opened:
        file = Window(opened)
        current: bytes | None = None
        sample = Sample("", {})
        try:
            for header in headers(file):
                own = not header.is_file or (b"__" in header.name and _META.match(header.name))
                parts = None if own else base_and_extension(header.name)
                if parts is None:
                    continue
                if parts[0] != current:
                    if current is not None:
                        yield sample
                    current, sample = parts[0], Sample(parts[0].decode(errors="replace"), {})
                sample = _added(sample, parts[1].decode(errors="replace"), header, file, texts)
        except DamagedError as error:
            yield Broken(None if current is None else sample.key, f"{uri} is damaged: {error}")
            return
        if current is not None:
            yield sample


def _added(sample: Sample, suffix: str, header: Header, file: Window, texts: frozenset[str]) -> Sample:
    if suffix in sample.members:
        return sample._replace(problem=f"two members with the extension {suffix!r}")
    if len(sample.members) >= MAX_MEMBERS:
        return sample._replace(problem=f"more than {MAX_MEMBERS} members")
    data = None
    if suffix in texts:
        if header.length > MAX_TEXT:
            return sample._replace(problem=f"a member {suffix!r} of {header.length} bytes")
        data = file.read(header.offset, header.length)
    sample.members[suffix] = Member(header.offset, header.length, data)
    return sample
