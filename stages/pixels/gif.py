"""How often the first picture of a GIF begins its code table anew, counted without decoding it.

OpenCV 4.14 takes 7 µs for each clear code, and a clear code can be of 3 bits: 4 MB of them, in a picture of 9 x 9 pixels, took
72 s. Encoders clear a table when it is full, with 4,096 codes; those that do not compress, every 126 or 254 codes.

Between two clear codes the places of all codes are known beforehand, as their widths depend on their number only (GIF89a,
appendix F). So whole stretches are looked at with NumPy.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

_MAX_BLOCKS = 400_000  # that are walked; files of 50 MB have half as many, of 255 bytes each
_FIRST = 256  # codes that are looked at first; then all the others up to a full table, and so on
_STRETCH = 4096
_MOST_BITS = 12
_WIDEST = 11  # bits of a pixel: 8, but decoders take more


def has_many_clears(data: bytes, most: int) -> bool:
    """Whether the first picture has more than `most` clear codes, or stands behind more blocks than anybody writes.

    A damaged file has as many as there are up to the damage. Raises IndexError where it ends before its first picture begins.
    """
    found = _first_picture(data)
    if found is None:
        return True
    bits, coded = found
    if not 1 <= bits <= _WIDEST or len(coded) * 8 // (bits + 1) <= most:
        return False
    widths = _widths(bits)
    places = np.concatenate([[0], np.cumsum(widths)])
    codes = np.frombuffer(coded + bytes(4), np.uint8)
    clears = start = 0
    while start < 8 * len(coded) and clears <= most:
        start = _behind_next_clear(codes, start, 1 << bits, widths, places)
        clears += 1
    return clears > most


def _widths(bits: int) -> Numbers:
    """Of the codes that follow a clear code, in bits: wide enough for the table as it is before each."""
    entries = (1 << bits) + 2 + np.maximum(np.arange(_STRETCH) - 1, 0)
    widths: Numbers = np.minimum(_MOST_BITS, np.floor(np.log2(entries)).astype(np.int64) + 1)
    return widths


def _behind_next_clear(codes: npt.NDArray[np.uint8], start: int, clear: int, widths: Numbers, places: Numbers) -> int:
    """The bit behind the next clear code, of a table that is new at `start`; or behind the end."""
    end = 8 * (len(codes) - 4)
    for first, last in ((0, _FIRST), (_FIRST, _STRETCH)):
        at = start + places[first:last]
        at = at[at < end]
        hit = _first_hit(codes, at, widths[first : first + len(at)], clear)
        if hit is not None:
            return int(at[hit] + widths[first + hit])
        if len(at) < last - first:
            return end
    at_full = start + int(places[_STRETCH])
    while at_full < end:
        at = np.arange(at_full, min(end, at_full + _STRETCH * _MOST_BITS), _MOST_BITS)
        hit = _first_hit(codes, at, np.full(len(at), _MOST_BITS), clear)
        if hit is not None:
            return int(at[hit]) + _MOST_BITS
        at_full += _STRETCH * _MOST_BITS
    return end


def _first_hit(codes: npt.NDArray[np.uint8], at: Numbers, widths: Numbers, wanted: int) -> int | None:
    """Which of the codes at these bits is the first that is wanted."""
    byte = at >> 3
    three = codes[byte] | codes[byte + 1].astype(np.int64) << 8 | codes[byte + 2].astype(np.int64) << 16
    hits = np.flatnonzero((three >> (at & 7)) & ((1 << widths) - 1) == wanted)
    return int(hits[0]) if len(hits) else None


def _first_picture(data: bytes) -> tuple[int, bytes] | None:
    """Bits of a pixel, and the codes of the first picture; None where more blocks come than are walked."""
    position = 13 + _table_bytes(data[10])
    left = _MAX_BLOCKS
    while data[position] == 0x21 and left > 0:  # an extension
        position, left, _ = _blocks(data, position + 2, left)
    if left <= 0:
        return None
    if data[position] != 0x2C:
        return 0, b""  # and no decoder finds a picture there
    position += 10 + _table_bytes(data[position + 9])
    _, left, parts = _blocks(data, position + 1, left)
    return None if left <= 0 else (data[position], b"".join(parts))


def _table_bytes(packed: int) -> int:
    """Of a table of colours, by the byte that says whether there is one."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _blocks(data: bytes, position: int, left: int) -> tuple[int, int, list[bytes]]:
    """Where a series of blocks ends, how many more may be walked, and what they hold."""
    parts = []
    while (size := data[position] if position < len(data) else 0) and left > 0:
        parts.append(data[position + 1 : position + 1 + size])
        position += 1 + size
        left -= 1
    return position + 1, left - 1, parts
