"""Tar archives read from end to end, with no faith in them.

Python's `tarfile` takes a damaged header in the middle for the archive's end, and an archive without an end for a whole one.
"""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pairsift.pipeline.ledger.tar import BLOCK
from pairsift.stages.pixels.headers import is_truncated, sniff

_RECORD = 10240  # bytes: an archive's length is a multiple of it, as GNU tar, Python's tarfile and pairsift write it
_TAIL = 1 << 20  # bytes read behind the end-of-archive marker
_SAME = {"jpeg": "jpg", "tif": "tiff"}
IMAGE_FORMATS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})


class DamagedTarError(Exception):
    """The archive cannot be read to its end; the message says where and why."""


class Member(NamedTuple):
    """One regular file of an archive. `offset` is of its first data byte."""

    name: str
    offset: int
    data: bytes


def walk(file: BinaryIO, size: int) -> Iterator[Member]:
    """The members of an archive of `size` bytes, in order. Raises DamagedTarError after the last one that is whole."""
    position = 0
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise DamagedTarError(f"it ends at byte {position + len(block):,}, without the end of an archive")
        if not any(block):
            rest = file.read(_TAIL)
            if size % _RECORD or len(rest) < BLOCK or any(rest):
                raise DamagedTarError(f"its end, at byte {position:,}, is not that of an archive")
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedTarError(f"no member begins at byte {position:,} ({error})") from None
        offset = position + BLOCK
        position = offset + header.size + -header.size % BLOCK
        if header.size < 0 or position > size:
            raise DamagedTarError(f"it ends within {header.name!r}, at byte {size:,}")
        data = file.read(position - offset)
        if header.isreg():
            yield Member(header.name, offset, data[: header.size])


def image_fault(data: bytes, extension: str) -> str | None:
    """What is wrong with an image that a file extension names, as far as its headers tell; None for nothing."""
    wanted = _SAME.get(extension, extension)
    if not any(data):
        return "holds nothing but zeros"
    found = sniff(data)
    if found != wanted:
        return f"is not {extension}" + (f" but {found}" if found else "")
    return "is cut short" if is_truncated(data, found) else None
