"""Image files that are small, state a modest size, and would still cost their decoder minutes or gigabytes.

Nothing is decoded here but PNG text, and of that no more than the bound. What was measured with OpenCV 4.14 on one core: a
JPEG of 95 KB with 2,000 empty scans over 4,000 x 4,000 pixels takes 5 s, and 50 MB of such scans would take hours; a PNG of
0.7 MB whose hundred text chunks hold 7 MB each takes 8 s and 700 MB, since libpng keeps what it inflates; a TIFF of 10 KB with
8,000 x 8,000 pixels of four 64-bit samples takes 13 s and 4 GB, and one of 50 KB with 65,536 x 16 pixels, in 4,096
tiles of 16 x 1,048,576 that lie all in one place, 160 s.
"""

import re
import struct
import zlib

import numpy as np

from pairsift.stages.pixels.gif import has_many_clears
from pairsift.stages.pixels.headers import ImageFormat, TiffField, png_chunks, tiff_fields

MAX_SCANS = 64  # of a JPEG; encoders write 10 or so, and no sensible script for three components needs 64
MAX_TEXT = 16 * 2**20  # bytes of inflated text in a PNG
MAX_CLEARS = 2**16  # of a GIF's first picture
MAX_WIDE_SAMPLES = 2**29  # bytes of a TIFF's samples, if they have more than 16 bits
_MAX_PADDING = 4  # times a TIFF's pixels that its tiles may have; those of small pictures may have 2^24 pixels
_MAX_SHARED = 16  # times a TIFF's bytes that its strips or tiles may have together: no writer stores two in one place
_MAX_SEGMENTS = 100_000  # of a JPEG that are walked; real files have a few dozen
_BEST_DEFLATE = 1032  # deflate cannot make data smaller than by this factor
# A marker as decoders find it: not a stuffed byte, a restart marker or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_TEXT = (b"zTXt", b"iTXt")
_NO_LENGTH = (0x01, 0xD8)


def too_costly(data: bytes, image_format: ImageFormat) -> str | None:
    """Why a whole file is not to be given to a decoder, in words; None if it may be."""
    if image_format == "jpg" and _has_too_many_scans(data):
        return f"JPEG with more than {MAX_SCANS} scans"
    if image_format == "png" and _has_too_much_text(data):
        return f"PNG with more than {MAX_TEXT} bytes of text, inflated"
    try:
        if image_format == "gif" and has_many_clears(data, MAX_CLEARS):
            return f"GIF whose first picture begins its code table anew more than {MAX_CLEARS} times"
        return _tiff_costs(data) if image_format == "tiff" else None
    except (struct.error, IndexError):
        return f"{image_format} with values beyond its end"


def _tiff_costs(data: bytes) -> str | None:
    fields = tiff_fields(data) or {}  # see TIFF 6.0 for their numbers

    def value(tag: int, default: int) -> int:
        return fields[tag].first(data) if tag in fields else default

    width, height, bits = value(256, 1), value(257, 1), value(258, 1)
    across, down = max(1, value(322, 1)), max(1, value(323, 1))  # of a tile; 1 where there are none
    pixels = -(-width // across) * across * -(-height // down) * down
    if pixels > max(2**24, _MAX_PADDING * width * height):
        return f"TIFF of {width}x{height} pixels in tiles of {across}x{down}"
    if bits > 16 and pixels * value(277, 1) * bits // 8 > MAX_WIDE_SAMPLES:
        return f"TIFF with more than {MAX_WIDE_SAMPLES} bytes of {bits}-bit samples"
    if any(_sum(data, fields[tag]) > _MAX_SHARED * len(data) for tag in (279, 325) if tag in fields):
        return f"TIFF whose strips or tiles have more than {_MAX_SHARED} times the file's bytes"
    return None


def _sum(data: bytes, field: TiffField) -> int:
    """Of the values, each of them no more than the file has bytes."""
    dtype = np.dtype(field.layout.replace("H", "u2").replace("I", "u4").replace("Q", "u8"))
    there = max(0, len(data) - field.start) // dtype.itemsize
    values = np.frombuffer(data, dtype, min(field.values, there), min(field.start, len(data)))
    return int(np.minimum(values, min(len(data), np.iinfo(dtype).max)).sum(dtype=np.uint64))


def _has_too_many_scans(data: bytes) -> bool:
    if _count_scan_marks(data) <= MAX_SCANS:  # in nearly every file, and quick to tell
        return False
    position = scans = 0
    for _ in range(_MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        code = data[marker.end() - 1] if marker else 0xD9
        if marker is None or code == 0xD9:  # decoders read no further: thumbnails and films may follow
            return False
        scans += code == 0xDA
        if scans > MAX_SCANS:
            return True
        position = marker.end()
        if code not in _NO_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return True


def _count_scan_marks(data: bytes) -> int:
    """How often FF DA comes up. In compressed data FF is frequent, which makes this four times as fast as `bytes.count`."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _has_too_much_text(data: bytes) -> bool:
    left = MAX_TEXT
    for kind, start, end in png_chunks(data):  # no more than MAX_PNG_CHUNKS, or the file would not be whole
        if kind not in _TEXT:  # nearly all; looking for these four letters in the whole file takes ten times as long
            continue
        deflated = _deflated_text(kind, data, start, end)
        if deflated is not None:
            left -= _inflated_size(deflated, left + 1)
        if left < 0:
            return True
    return False


def _deflated_text(kind: bytes, data: bytes, start: int, end: int) -> bytes | None:
    """PNG 11.3.3.3 and 11.3.3.4: keyword, null, [flag,] method, [language, null, translated keyword, null,] text."""
    at = data.find(b"\0", start, end)
    if at < 0:
        return None
    if kind == b"zTXt":
        return data[at + 2 : end]
    if data[at + 1 : at + 2] != b"\1":  # stored as it is
        return None
    at = data.find(b"\0", at + 3, end)
    at = data.find(b"\0", at + 1, end) if at >= 0 else at
    return data[at + 1 : end] if at >= 0 else None


def _inflated_size(deflated: bytes, limit: int) -> int:
    """Bytes that it inflates to, at most `limit`; of what is damaged, those before the damage."""
    if len(deflated) * _BEST_DEFLATE < 2**16:
        return len(deflated)  # too little to matter, however often it comes: the file's own size bounds it
    inflater = zlib.decompressobj()
    size = 0
    try:
        while size < limit:
            block = inflater.decompress(deflated, 2**16)
            if not block:
                break
            size += len(block)
            deflated = inflater.unconsumed_tail
    except zlib.error:
        pass
    return min(size, limit)
