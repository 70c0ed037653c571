"""Plain ustar archives, written so that the same members give the same bytes: no times, no owners, no PAX headers."""

import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # bytes: tar's unit of padding
_RECORD = 10240  # bytes: an archive's length is a multiple of it, as GNU tar and Python's tarfile write it
_LARGEST = 8**11  # bytes: the first size that a header's eleven octal digits do not hold
_ZEROS = bytes(BLOCK)

# Where a header's fields are: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 154)
_ANY_FILE = tarfile.TarInfo()  # mode 0444, owner 0, mtime 0; no name, no bytes
_ANY_FILE.mode = 0o444
_HEADER = np.frombuffer(_ANY_FILE.tobuf(tarfile.USTAR_FORMAT), np.uint8)
_SUM_WITHOUT_SIZE = int(_HEADER.sum()) - int(_HEADER[148:156].sum()) + 8 * ord(" ") - 11 * ord("0")

Size = TypeVar("Size", int, NDArray[np.int64])


def headers(names: Sequence[bytes], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The block before each member's bytes, one per row.

    Raises ValueError for what ustar has no place for: a name of more than 100 bytes, and 8 GiB or more.
    """
    if len(sizes) and (max(map(len, names)) > 100 or sizes.max() >= _LARGEST):
        raise ValueError(f"{max(names, key=len)!r}, or a member of {sizes.max()} bytes: more than ustar has a place for")
    found = np.tile(_HEADER, (len(names), 1))
    found[:, _NAME] = np.array(names, "S100").view(np.uint8).reshape(-1, 100)
    found[:, _SIZE] = _octal(sizes, 11)
    sums = _SUM_WITHOUT_SIZE + found[:, _NAME].sum(axis=1, dtype=np.int64) + found[:, _SIZE].sum(axis=1, dtype=np.int64)
    found[:, _CHECKSUM] = _octal(sums, 6)
    return found


def _octal(numbers: NDArray[np.int64], digits: int) -> NDArray[np.int64]:
    """The ASCII digits of each number in a row."""
    return (numbers[:, None] >> np.arange(3 * (digits - 1), -1, -3)) % 8 + ord("0")


def blocks(size: Size) -> Size:
    """How many blocks a member of so many bytes takes, its header included."""
    return 1 + -(-size // BLOCK)


def archive_bytes(member_blocks: int) -> int:
    """The length of an archive whose members take so many blocks."""
    return -(-(member_blocks + 2) * BLOCK // _RECORD) * _RECORD


def most_blocks(archive: int) -> int:
    """How many blocks members may take for the archive to have at most so many bytes."""
    return archive // _RECORD * _RECORD // BLOCK - 2


def end(position: int) -> bytes:
    """What ends an archive whose members end at byte `position`."""
    return bytes(archive_bytes(position // BLOCK) - position)


class TarWriter:
    """Appends members to a file opened for writing and tells where their bytes went."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Append one member and return the offset of its first data byte. Raises ValueError as `headers`."""
        return self.add_all([name], [data])[0]

    def add_all(self, names: Sequence[str], members: Sequence[bytes | memoryview]) -> list[int]:
        """Append members and return the offsets of their first data bytes. Raises ValueError as `headers`."""
        sizes = np.array([len(data) for data in members], np.int64)
        before = headers([name.encode("utf-8", "surrogateescape") for name in names], sizes)
        offsets = []
        for header, data in zip(before, members, strict=True):
            offsets.append(self._position + BLOCK)
            self._file.write(header.data)
            self._file.write(data)
            self._file.write(_ZEROS[: -len(data) % BLOCK])
            self._position += blocks(len(data)) * BLOCK
        return offsets

    def close(self) -> None:
        """Write the end-of-archive marker. The file itself stays open."""
        self._file.write(end(self._position))


def members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of each regular member, in order. Raises tarfile.ReadError for a damaged archive."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.isfile():
                yield info.name, info.offset_data, info.size
