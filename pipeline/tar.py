"""Plain ustar archives, written so that the same members give the same bytes: no times, no owners, no PAX headers."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 512  # bytes: tar's unit of padding
_RECORD = 10240  # bytes: an archive's length is a multiple of it, as GNU tar and Python's tarfile write it


class TarWriter:
    """Appends members to a file opened for writing and tells where their bytes went."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Append one member and return the offset of its first data byte."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o444
        block = header.tobuf(tarfile.USTAR_FORMAT)
        offset = self._position + len(block)
        padding = -len(data) % BLOCK
        self._file.write(block)
        self._file.write(data)
        self._file.write(bytes(padding))
        self._position = offset + len(data) + padding
        return offset

    def close(self) -> None:
        """Write the end-of-archive marker. The file itself stays open."""
        end = self._position + 2 * BLOCK
        self._file.write(bytes(2 * BLOCK + -end % _RECORD))


def members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of each regular member, in order. Raises tarfile.ReadError for a damaged archive."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.isfile():
                yield info.name, info.offset_data, info.size
