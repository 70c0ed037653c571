"""Webdataset tars as samples: where each member's bytes lie, and the bytes of the small ones. Images are skipped, not read."""

import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from pairsift.stages.sources import open_source

MAX_TEXT = 64 << 20  # bytes; a larger text or JSON member is not read
_BLOCK = 512

# webdataset's rules (tariterators.base_plus_ext and tar_file_iterator), written out here because importing it loads torch.
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")


class Member(NamedTuple):
    """Where one member's bytes lie in the tar."""

    offset: int  # of its first byte, in the tar
    length: int  # bytes
    data: bytes | None  # only of members that were asked for


class Sample(NamedTuple):
    """Consecutive members whose names agree up to the first dot after the last slash."""

    key: str
    members: dict[str, Member]  # by what follows the dot, in lower case
    problem: str | None = None  # why it cannot be trusted


class Broken(NamedTuple):
    """The tar cannot be read from here on. `key` is the sample that was being read, if any."""

    key: str | None
    detail: str


def base_and_extension(name: str) -> tuple[str, str] | None:
    """`a.b/key` and `seg.jpg` of `a.b/key.seg.JPG`: split at the first dot of the file name; None where it has none."""
    match = _NAME.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def samples(uri: str, texts: frozenset[str]) -> Iterator[Sample | Broken]:
    """The tar's samples in order, with the bytes of members whose extension is in `texts`.

    A damaged tar gives its whole samples up to the damage, then one `Broken`. Members that are no regular files, that have no
    extension or are webdataset's own (`__…__`) are passed over.
    """
    with open_source(uri, decompress=False) as file:
        sample: Sample | None = None
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info, key, suffix in _members(tar):
                    if sample is None or sample.key != key:
                        if sample is not None:
                            yield sample
                        sample = Sample(key, {})
                    sample = _added(sample, suffix, info, tar, suffix in texts)
                _check_end(tar, file)
        except (tarfile.TarError, EOFError) as error:
            yield Broken(sample.key if sample else None, f"{uri} is damaged: {error}")
            return
        if sample is not None:
            yield sample


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    while tar.offset > 0:  # it is 0 if opening found no member at all: Python 3.10 would then seek to -1
        try:
            info = tar.next()
        except ValueError as error:  # numbers in extended headers
            raise tarfile.ReadError(f"bad header: {error}") from error
        if info is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # or it would keep all headers of a large tar
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        parts = base_and_extension(name)
        if parts and info.isreg() and not info.issparse() and not _META.match(name):
            yield info, *parts


def _added(sample: Sample, suffix: str, info: tarfile.TarInfo, tar: tarfile.TarFile, read: bool) -> Sample:
    if suffix in sample.members:
        return sample._replace(problem=f"two members with the extension {suffix!r}")
    data = None
    if read:
        if info.size > MAX_TEXT:
            return sample._replace(problem=f"a member {suffix!r} of {info.size} bytes")
        file = tar.extractfile(info)
        data = file.read() if file else b""
    sample.members[suffix] = Member(info.offset_data, info.size, data)
    return sample


def _check_end(tar: tarfile.TarFile, file: IO[bytes]) -> None:
    """tarfile takes a damaged header after the first for the end. The end is a block of zeros, or nothing (some writers)."""
    end = int(tar.offset)
    file.seek(end)
    block = file.read(_BLOCK)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"no valid header at byte {end}")
