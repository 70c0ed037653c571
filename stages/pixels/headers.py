"""What the first bytes of an image file tell: its format, its size in pixels, and whether the file is whole.

Nothing is decoded here, and no more than the header is walked, so this may be asked of any bytes that strangers send.
Layouts: JPEG ITU-T T.81 annex B, PNG (W3C), WebP container (RFC 9649), GIF89a, BMP (BITMAPFILEHEADER and DIB header),
TIFF 6.0 and BigTIFF, AVIF (ISO/IEC 23008-12, the `ispe` property).
"""

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

ImageFormat = Literal["jpg", "png", "webp", "gif", "bmp", "tiff", "avif"]
Size = tuple[int, int]  # width, height, in pixels

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes; the sizes that BMP writers use
_MAX_JPEG_SEGMENTS = 4096  # real files have a few dozen, at most some hundred for large colour profiles and XMP
_MAX_TIFF_TAGS = 4096
# ImageWidth, ImageLength, BitsPerSample, SamplesPerPixel, StripByteCounts, TileWidth, TileLength, TileByteCounts.
_TIFF_TAGS = (256, 257, 258, 277, 279, 322, 323, 325)
_TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
MAX_PNG_CHUNKS = 100_000  # a file of 50 MB in chunks of 8 KB has 6,400; what has more is not looked through
_PNG_CHUNK = struct.Struct(">I4s")  # length of the content, type
_NO_FILL_BYTE = re.compile(rb"[^\xff]")  # any number of fill bytes may precede a marker's code; megabytes, if need be
_MAX_BOXES = 64  # of an AVIF that are walked; files have four or so


def sniff(data: bytes) -> ImageFormat | None:
    """The format by magic bytes, or None if it is none of ours. Names and Content-Type are not believed."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(_PNG):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _DIB_HEADERS:
        return "bmp"
    if data[:4] in _TIFF:
        return "tiff"
    if data[4:8] == b"ftyp" and _has_avif_brand(data):
        return "avif"
    return None


def header_size(data: bytes, image_format: ImageFormat) -> Size | None:
    """Width and height in pixels as the header states them, or None if the header is damaged. Decodes nothing."""
    try:
        size = _SIZE_READERS[image_format](data)
    except (struct.error, IndexError):  # the header ends before its fields do
        return None
    return size if size and min(size) > 0 else None


def is_truncated(data: bytes, image_format: ImageFormat) -> bool:
    """Whether the file ends before its format says that it ends.

    JPEG: no end-of-image marker after the first scan starts (before it, thumbnails have markers of their own; inside it,
    0xFF is always escaped). PNG: a chunk that ends beyond the file, or no IEND; OpenCV 4.14 makes room for a chunk of 4 GB as
    soon as a header announces it. WebP: fewer bytes than the RIFF header announces (a missing pad byte is
    forgiven). The other formats are left to the decoder, which refuses them when they are cut.
    """
    if image_format == "jpg":
        return data.rfind(b"\xff\xd9", _jpeg_scan_start(data)) < 0
    if image_format == "png":
        return not _png_is_whole(data)
    if image_format == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8 - 1
    return False


def _has_avif_brand(data: bytes) -> bool:
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12]] + [data[i : i + 4] for i in range(16, end, 4)]
    return b"avif" in brands or b"avis" in brands


def _jpeg_segment(data: bytes, wanted: Callable[[int], bool]) -> int | None:
    """Offset just behind the first marker whose code is wanted; None if the segments end or make no sense before it."""
    position = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        position = data.find(b"\xff", position)
        marker = _NO_FILL_BYTE.search(data, position) if position >= 0 else None
        if marker is None:
            return None
        position = marker.end()
        code = data[position - 1]
        if wanted(code):
            return position
        if code == 0xD9:
            return None
        if code not in (0x00, 0x01) and not 0xD0 <= code <= 0xD8:  # all other segments state their length
            position += max(2, struct.unpack_from(">H", data, position)[0])
    return None


def jpeg_components(data: bytes) -> int | None:
    """How many colour components a JPEG's header states: 1 is grey, 3 is YCbCr or RGB, 4 is CMYK. None for a damaged one."""
    try:
        frame = _jpeg_segment(data, _starts_frame)
        return None if frame is None else data[frame + 7]
    except (struct.error, IndexError):
        return None


def _starts_frame(code: int) -> bool:
    return 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)


def _jpeg_size(data: bytes) -> Size | None:
    frame = _jpeg_segment(data, _starts_frame)
    if frame is None:
        return None
    height, width = struct.unpack_from(">HH", data, frame + 3)
    return width, height


def _jpeg_scan_start(data: bytes) -> int:
    try:
        start = _jpeg_segment(data, lambda code: code == 0xDA)
    except struct.error:
        start = None
    return len(data) if start is None else start


def _png_size(data: bytes) -> Size | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, and where its content starts and is said to end, of each chunk up to IEND."""
    position = 8
    while position + 8 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        end = position + 8 + length
        yield kind, position + 8, end
        if kind == b"IEND":
            return
        position = end + 4  # behind the checksum


def _png_is_whole(data: bytes) -> bool:
    kind, end = b"", 0
    for kind, _, end in islice(png_chunks(data), MAX_PNG_CHUNKS):  # noqa: B007 - the last ones are what is asked
        if end + 4 > len(data):
            return False
    return kind == b"IEND"


def _webp_size(data: bytes) -> Size | None:
    chunk = data[12:16]
    if chunk == b"VP8X":  # 24 bits each, less one
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":  # 14 bits each, less one
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":  # 14 bits each; the upper two are a scale
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _gif_size(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp_size(data: bytes) -> Size:
    if data[14] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height means that rows run from the top down


def _tiff_size(data: bytes) -> Size | None:
    """Of the first directory, which is the image that decoders read."""
    fields = tiff_fields(data)
    if fields is None or not {256, 257} <= fields.keys():
        return None
    return fields[256].first(data), fields[257].first(data)


class TiffField(NamedTuple):
    """Where a tag's values are, and how many. `layout` is struct's, of one."""

    layout: str
    values: int
    start: int

    def first(self, data: bytes) -> int:
        """Raises struct.error where it lies beyond the file."""
        return int(struct.unpack_from(self.layout, data, min(self.start, len(data)))[0])


def tiff_fields(data: bytes) -> dict[int, TiffField] | None:
    """Tag → field, of the tags in the first directory that say how large the pixels are. Of a tag that comes twice the first
    counts, as for libtiff. None for a damaged directory, or a type that no writer uses there. Raises struct.error, too."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    number, header = (order + "Q", 8) if big else (order + "I", 4)
    directory = struct.unpack_from(number, data, header)[0]
    if directory >= len(data):
        return None
    count = struct.unpack_from(order + ("Q" if big else "H"), data, directory)[0]
    first, entry_bytes, value_at = (directory + 8, 20, 12) if big else (directory + 2, 12, 8)
    fields: dict[int, TiffField] = {}
    for entry in range(first, first + min(count, _MAX_TIFF_TAGS) * entry_bytes, entry_bytes):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag not in _TIFF_TAGS or tag in fields:
            continue
        if kind not in _TIFF_TYPES:
            return None
        layout = order + _TIFF_TYPES[kind]
        values = struct.unpack_from(number, data, entry + 4)[0]
        at = entry + value_at
        fits = values * struct.calcsize(layout) <= struct.calcsize(number)
        fields[tag] = TiffField(layout, values, at if fits else struct.unpack_from(number, data, at)[0])
    return fields


def _avif_size(data: bytes) -> Size | None:
    """The largest `ispe` (image spatial extents) or track: of tiles, alpha planes and the whole, the whole is the largest."""
    sizes: list[Size] = []
    for start, end in _avif_boxes(data):
        position = start
        while (position := data.find(b"ispe", position + 1, end)) >= 0 and position + 16 <= len(data):
            width, height = struct.unpack_from(">II", data, position + 8)
            sizes.append((width, height))
        position = start
        while (position := data.find(b"tkhd", position + 1, end)) >= 0:  # its last fields: 16 bits, and 16 behind the point
            last = position - 4 + int.from_bytes(data[position - 4 : position], "big")
            width, height = struct.unpack_from(">II", data, max(0, min(last - 8, len(data))))
            sizes.append((width >> 16, height >> 16))
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _avif_boxes(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the boxes begin and end that say how large pictures are."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            size = struct.unpack_from(">Q", data, position + 8)[0]
        end = position + size if size >= 8 else len(data)  # 0: up to the end
        if kind in (b"meta", b"moov"):
            yield position, min(end, len(data))
        position = end


_SIZE_READERS: dict[ImageFormat, Callable[[bytes], Size | None]] = {
    "jpg": _jpeg_size,
    "png": _png_size,
    "webp": _webp_size,
    "gif": _gif_size,
    "bmp": _bmp_size,
    "tiff": _tiff_size,
    "avif": _avif_size,
}
