"""PNGs decoded in 60 % of OpenCV's time, to the same pixels.

OpenCV inflates with zlib, which takes more than half of its time. Here ISA-L inflates; what comes out is exactly as long as the
header says, or it is not used. It is stored again, uncompressed, in a PNG of our own making, from which libspng undoes the
filters. So the only bytes of a stranger that libspng ever sees are those of filtered rows
(docs/decisions/14-decoders.md has figures).
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyspng
from isal import isal_zlib
from isal.igzip_lib import IsalError

from pairsift.stages.pixels.headers import MAX_PNG_CHUNKS, png_chunks

Pixels = npt.NDArray[Any]

MAX_PIXELS = 2 * 2**20  # pyspng keeps Python's lock while it works: up to 20 ms for so many
_HEADER = struct.Struct(">IIBBBBB")  # width, height, depth, colour type, compression, filter, interlace (PNG 11.2.2)
_PLAIN = {2: 3, 6: 4}  # colour type → bytes per pixel at a depth of 8: RGB, RGBA
_FORMATS = {3: "RGB", 4: "RGBA"}
_TO_OPENCV = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_CHANGES_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # transparency, animation
_SIGNATURE_AND_HEADER = 33  # bytes
_STORED = struct.Struct("<BHH")  # last block or not, length, its complement (RFC 1951, 3.2.4)
_MOST_STORED = 65535  # bytes per block


def decode_png(data: bytes) -> Pixels | None:
    """Pixels as OpenCV's IMREAD_UNCHANGED gives them: uint8, (height, width, 3) BGR or (height, width, 4) BGRA.

    None where OpenCV is to be asked: anything but 8 bits of RGB or RGBA in rows, transparency by colour, animations, more
    than 2 megapixels, and whatever is damaged or odd.
    """
    if len(data) < _SIGNATURE_AND_HEADER:
        return None
    width, height, depth, colour, *methods = _HEADER.unpack_from(data, 16)
    channels = _PLAIN.get(colour)
    if channels is None or depth != 8 or any(methods) or width * height > MAX_PIXELS:
        return None
    deflated = _image_data(data)
    rows = None if deflated is None else _inflated(deflated, height * (1 + width * channels))
    if rows is None:
        return None
    try:
        pixels: Pixels = pyspng.load(b"".join(_stored_png(data[:_SIGNATURE_AND_HEADER], rows)), format=_FORMATS[channels])
    except (RuntimeError, ValueError):  # a filter that there is not
        return None
    return np.asarray(cv2.cvtColor(pixels, _TO_OPENCV[channels]))


def _image_data(data: bytes) -> bytes | None:
    """The content of all IDAT chunks. None where a checksum is wrong, or where chunks would change what they mean."""
    view, parts = memoryview(data), []
    for number, (kind, start, end) in enumerate(islice(png_chunks(data), MAX_PNG_CHUNKS)):
        critical = not kind[0] & 0x20
        known = kind == b"IHDR" if number == 0 else kind in (b"IDAT", b"PLTE", b"IEND")
        if (critical and not known) or kind in _CHANGES_PIXELS:
            return None
        if isal_zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        if kind == b"IDAT":
            parts.append((number, view[start:end]))
    numbers = [number for number, _ in parts]
    if not parts or numbers[-1] - numbers[0] != len(parts) - 1:  # they have to follow one another
        return None
    return b"".join(part for _, part in parts)


def _inflated(deflated: bytes, size: int) -> bytes | None:
    """Exactly `size` bytes with the right checksum, or None; no more than a byte beyond it is ever inflated."""
    inflater = isal_zlib.decompressobj()
    try:
        rows = inflater.decompress(deflated, size + 1)
    except IsalError:  # type: ignore[misc]  # its stub calls the class an instance
        return None
    return rows if len(rows) == size and inflater.eof else None


def _stored_png(head: bytes, rows: bytes) -> Iterator[bytes | memoryview]:
    """A PNG with these filtered rows, uncompressed, in parts. Its checksums are not all right, and libspng asks for none."""
    blocks = -(-len(rows) // _MOST_STORED)
    yield head
    yield struct.pack(">I", 2 + blocks * _STORED.size + len(rows) + 4)
    yield b"IDAT\x78\x01"
    view = memoryview(rows)
    for start in range(0, len(rows), _MOST_STORED):
        block = view[start : start + _MOST_STORED]
        yield _STORED.pack(start + _MOST_STORED >= len(rows), len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack(">I", isal_zlib.adler32(rows))
    yield b"\0\0\0\0" + b"\0\0\0\0IEND\xae\x42\x60\x82"
