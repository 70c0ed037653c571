"""The headers of a tar, one after the other: ustar, GNU and PAX.

Python's tarfile needs 20 µs for a header, and believes what it says: it reads an extended header of any size into memory, and
a negative size makes it turn in circles. Here a header needs 2 µs, and nothing is believed that does not lie within the file.
"""

import os
import re
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

BLOCK = 512  # bytes: tar's unit
MAX_EXTENDED = 1 << 20  # bytes of an extended header or a long name
_WINDOW = 16 << 10  # bytes read at once: the headers and texts of a sample or two, and little of the images between them

_FILE = frozenset({b"0", b"\0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # links, devices, folders, pipes: their size means nothing
_PAX = frozenset({b"x", b"X"})
_LONG_NAME, _LONG_LINK, _GLOBAL, _SPARSE = b"L", b"K", b"g", b"S"
_SPACES = 8 * ord(" ")
_ADLER_BASE = 65521
_RECORD = re.compile(rb"(\d{1,9}) ([^=\n]+)=")


class DamagedError(Exception):
    """The tar cannot be read from here on. Says what is wrong, and at which byte."""


class Header(NamedTuple):
    """One member."""

    name: bytes
    is_file: bool  # a regular one, stored as it is: no link, no folder, not sparse
    offset: int  # of its first byte, in the tar
    length: int  # bytes that the tar has of it


class _Extended(NamedTuple):
    """What extended headers say of the next member."""

    name: bytes | None = None
    length: int | None = None
    sparse: bool = False


_NOTHING = _Extended()


class Window:
    """A file read in order, some kilobytes at a time: what is near what was asked for last costs a slice."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._start, self._data = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; fewer than `length` where the file ends."""
        place = offset - self._start
        if 0 <= place <= len(self._data) - length:
            return self._data[place : place + length]
        self._file.seek(offset)
        if length > _WINDOW:
            return _all_of(self._file, length)
        self._start, self._data = offset, _all_of(self._file, _WINDOW)
        return self._data[:length]


def _all_of(file: IO[bytes], length: int) -> bytes:
    """An unbuffered file may give less than there is."""
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data


def headers(file: Window) -> Iterator[Header]:
    """The members in order. The end is a block of zeros or, as some writers have it, the end of the file.

    Raises DamagedError where a header is no header, or says what cannot be.
    """
    size = file.size
    extended = _NOTHING
    last_pax, last_length = b"", 0  # most tars that have extended headers have the same one again and again
    offset = 0
    while offset < size:
        block = file.read(offset, BLOCK)
        if block[:1] == b"\0" and not block.strip(b"\0"):
            break
        length = last_length if block == last_pax else _length(block, offset)
        kind, data = block[156:157], offset + BLOCK
        if kind in _PAX:
            last_pax, last_length = block, length
        if kind in _PAX or kind in (_LONG_NAME, _LONG_LINK, _GLOBAL):
            if length > MAX_EXTENDED:
                raise DamagedError(f"an extended header of {length} bytes at byte {offset}")
            found = file.read(data, length)
            if len(found) < length:
                raise DamagedError(f"the extended header at byte {offset} is cut short")
            # Most say no more than times and owners: webdataset's writer gives each member one for its time of change.
            if kind == _LONG_NAME or b"path=" in found or b"size=" in found or b"GNU.sparse" in found:
                extended = _extended(extended, kind, found)
        else:
            if kind == _SPARSE:
                data = _after_sparse_map(file, block, data)
            length = 0 if kind in _WITHOUT_DATA else length if extended.length is None else extended.length
            if data + length > size:
                raise DamagedError(f"the member at byte {offset} has {length} bytes, which the file has not")
            name = _name(block) if extended.name is None else extended.name
            yield Header(name, kind in _FILE and not extended.sparse and name[-1:] != b"/", data, length)
            extended = _NOTHING
        offset = data + -(-length // BLOCK) * BLOCK
    if offset > size or extended is not _NOTHING:
        raise DamagedError(f"the file ends at byte {size}, in the middle of a member")


def _length(block: bytes, offset: int) -> int:
    """The header's size, in bytes. Raises DamagedError where the block is no header."""
    checksum = _octal(block[148:154], block[154:156]) if len(block) == BLOCK else None
    # The checksum is the sum of all bytes, with spaces in its own place. The lower half of Adler-32 is one more than the sum
    # of all bytes, modulo a prime: the same to within that, at a fraction of the time.
    if checksum is None or zlib.adler32(block) & 0xFFFF != (1 + checksum + sum(block[148:156]) - _SPACES) % _ADLER_BASE:
        raise DamagedError(f"no valid header at byte {offset}")
    size = _octal(block[124:135], block[135:136])
    if size is not None:
        return size
    if block[124] == 0x80:  # binary, for 8 GiB and more; 0xFF would be a negative number
        return int.from_bytes(block[125:136], "big")
    raise DamagedError(f"the header at byte {offset} has no size")


def _octal(digits: bytes, rest: bytes) -> int | None:
    """The number of a field, of which nearly all writers leave the `rest` to zeros or spaces; None where it is none."""
    if not digits.isdigit() or rest.strip(b" \0"):
        digits = (digits + rest).strip(b" \0")
        if digits and not digits.isdigit():
            return None
    try:
        return int(digits or b"0", 8)
    except ValueError:  # an 8 or a 9
        return None


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _extended(before: _Extended, kind: bytes, data: bytes) -> _Extended:
    """What is known of the next member after one more extended header."""
    if kind == _LONG_NAME:
        return before._replace(name=data.partition(b"\0")[0])
    if kind not in _PAX:
        return before
    records = dict(_records(data))
    size = records.get(b"size")
    if size is not None and not (size.isdigit() and len(size) < 20):
        raise DamagedError(f"an extended header gives the size {size[:40]!r}")
    return _Extended(
        records.get(b"path", before.name),
        before.length if size is None else int(size),
        before.sparse or any(key.startswith(b"GNU.sparse") for key in records),
    )


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`LENGTH KEY=VALUE` and a line end, the length being of all of it."""
    position = 0
    while position < len(data) and data[position]:
        match = _RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end <= match.end() or data[end - 1 : end] != b"\n":
            raise DamagedError("an extended header that makes no sense")
        yield match[2], data[match.end() : end - 1]
        position = end


def _after_sparse_map(file: Window, block: bytes, data: int) -> int:
    """Where the data of one of GNU's old sparse files begins: after the blocks that go on with its map."""
    more = block[482]
    while more:
        block = file.read(data, BLOCK)
        if len(block) < BLOCK:
            raise DamagedError("a sparse file's map is cut short")
        data, more = data + BLOCK, block[504]
    return data
