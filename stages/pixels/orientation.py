"""Which way up an image is: the EXIF tag Orientation (CIPA DC-008, tag 0x0112) and its equals in AVIF, and pixels turned by it.

Cameras store what the sensor saw and note how they were held; every viewer turns the picture. OpenCV turns TIFFs by itself.
"""

import struct
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pairsift.stages.pixels.headers import MAX_PNG_CHUNKS, ImageFormat, png_chunks

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_MAX_TAGS = 512
_MAX_SEGMENTS = 64  # EXIF stands at the start of a JPEG; behind an ICC profile of 4 MB at most
_AVIF_META = 65536  # bytes; the properties stand at the start of the file
# (irot: quarter turns anticlockwise, imir: axis or None) → the tag's value (ISO/IEC 23008-12, 6.5.10 and 6.5.12).
_AVIF = {
    (0, None): 1,
    (1, None): 8,
    (2, None): 3,
    (3, None): 6,
    (0, 0): 4,
    (1, 0): 5,
    (2, 0): 2,
    (3, 0): 7,
    (0, 1): 2,
    (1, 1): 7,
    (2, 1): 4,
    (3, 1): 5,
}


def orientation(data: bytes, image_format: ImageFormat) -> int:
    """1 to 8, as the tag's standard numbers them: what is still to be done to the pixels that OpenCV decodes without turning
    them. 1 (nothing) where there is no tag, or none that can be read."""
    if image_format == "avif":
        return _avif_orientation(data[:_AVIF_META])
    try:
        block = _EXIF_BLOCKS[image_format](data) if image_format in _EXIF_BLOCKS else None
        value = _orientation_tag(block.removeprefix(b"Exif\0\0")) if block else UPRIGHT
    except struct.error:  # it ends before its fields do
        return UPRIGHT
    return value if 1 <= value <= 8 else UPRIGHT


def turned(pixels: npt.NDArray[Any], value: int) -> npt.NDArray[Any]:
    """Pixels of shape (height, width, ...) as they are meant to be seen; 5 to 8 swap height and width. May be a view."""
    if value >= 5:
        pixels = pixels.swapaxes(0, 1)
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright(size: tuple[int, int], value: int) -> tuple[int, int]:
    """(width, height) of pixels that were turned; the same call undoes it."""
    return (size[1], size[0]) if value >= 5 else size


def turned_box(box: tuple[float, float, float, float], value: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in fractions of the sides, moved along with the pixels."""
    left, top, right, bottom = box
    if value >= 5:
        left, top, right, bottom = top, left, bottom, right
    if value in (2, 3, 6, 7):
        left, right = 1 - right, 1 - left
    if value in (3, 4, 7, 8):
        top, bottom = 1 - bottom, 1 - top
    return left, top, right, bottom


def _jpeg_exif(data: bytes) -> bytes | None:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        marker, code, length = struct.unpack_from(">BBH", data, position)
        if marker != 0xFF or code in (0xD9, 0xDA):
            return None
        if code == 0xE1 and data.startswith(b"Exif\0\0", position + 4):
            return data[position + 4 : position + 2 + length]
        position += 2 + max(2, length)
    return None


def _png_exif(data: bytes) -> bytes | None:
    for kind, start, end in islice(png_chunks(data), MAX_PNG_CHUNKS):
        if kind == b"eXIf":
            return data[start:end]
    return None


def _webp_exif(data: bytes) -> bytes | None:
    position = 12
    for _ in range(_MAX_SEGMENTS):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return None


def _orientation_tag(block: bytes) -> int:
    """Of the first directory of a TIFF structure. Raises struct.error where it is cut short."""
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return UPRIGHT
    order = "<" if block[:2] == b"II" else ">"
    directory = struct.unpack_from(order + "I", block, 4)[0]
    count = struct.unpack_from(order + "H", block, directory)[0]
    for entry in range(min(count, _MAX_TAGS)):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", block, directory + 2 + 12 * entry)
        if tag == _ORIENTATION_TAG:
            return int(value) if kind == _SHORT else UPRIGHT
    return UPRIGHT


def _avif_orientation(head: bytes) -> int:
    """From the image properties `irot` and `imir`; their association is not looked up, since files hold one picture."""
    turn, mirror = (head.find(b"\0\0\0\x09" + kind) for kind in (b"irot", b"imir"))
    angle = head[turn + 8] & 3 if 0 <= turn < len(head) - 8 else 0
    axis = head[mirror + 8] & 1 if 0 <= mirror < len(head) - 8 else None
    return _AVIF[angle, axis]


_EXIF_BLOCKS = {"jpg": _jpeg_exif, "png": _png_exif, "webp": _webp_exif}
