"""Images that strangers might send: bombs, forgeries, halves, and the odd but honest ones. All made here, none stored."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

SIZE = (96, 64)  # width, height of the honest pictures


@cache
def pixels(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth RGB picture with a red, a green and a blue ramp, so that no encoder hurts it much."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.dstack([x, y, 255 - x]).astype(np.uint8))


def saved(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, pillow_format, **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png_with(*chunks: bytes) -> bytes:
    """An honest PNG with further chunks behind its header."""
    honest = saved(pixels(), "PNG")
    return honest[:33] + b"".join(chunks) + honest[33:]


@cache
def deflated_zeros(size: int) -> bytes:
    """A thousandth of `size`."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def jpeg_segments(data: bytes) -> tuple[bytes, bytes]:
    """What stands before the first scan, and the rest."""
    at = data.index(b"\xff\xda")
    return data[:at], data[at:]


def jpeg_stating(width: int, height: int, **options: Any) -> bytes:
    """A small JPEG whose frame header states another size."""
    data = bytearray(saved(pixels(), "JPEG", **options))
    frame = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_many_scans(scans: int, side: int) -> bytes:
    """A progressive grey JPEG of side by side pixels, whose scans each say in a few bytes that nothing changes."""
    blocks = ((side + 7) // 8) ** 2
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00"
    tables = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    # One DC code for "no difference", and one AC code for "32,767 blocks in a row end here" (run length category 14).
    dc = b"\xff\xc4" + struct.pack(">HB", 20, 0x00) + b"\x01" + bytes(15) + b"\x00"
    ac = b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + b"\x01" + bytes(15) + b"\xe0"
    first = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(blocks // 8 + 1)
    runs = blocks // 32767 + 1
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    later = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + body
    return b"\xff\xd8" + tables + frame + dc + ac + first + later * scans + b"\xff\xd9"


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """An honest JPEG with further segments (marker code, content) behind its first two bytes."""
    honest = saved(pixels(), "JPEG")
    extra = b"".join(bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content for code, content in segments)
    return honest[:2] + extra + honest[2:]


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"") -> bytes:
    """Little-endian, one directory of (tag, type, count, value) at offset 8, and then `after`."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + after


def tiff_stating(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), *more]
    return tiff(*sorted(entries), after=bytes(512))


def gif_of_many_frames(frames: int, side: int) -> bytes:
    """Each frame the whole screen, in a handful of bytes: its pixels are cut short."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    frame = b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00"
    return head + frame * frames + b";"


def gif_of_clear_codes() -> bytes:
    """4 MB of them, of 3 bits each, in a picture of 9 x 9 pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0x80, 0, 0) + bytes(6) + b"\x2c" + struct.pack("<HHHHB", 0, 0, 9, 9, 0)
    return head + b"\x02" + (b"\xff" + b"\x24\x49\x92" * 85) * 16_000 + b"\0;"


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("payload.txt", "not a picture")
    return out.getvalue()


def animated(pillow_format: str, frames: int = 3) -> bytes:
    shades = [pixels().point(lambda value, step=step: value // (step + 1)) for step in range(frames)]  # type: ignore[misc]
    return saved(shades[0], pillow_format, save_all=True, append_images=shades[1:], duration=100)


def sixteen_bits(colour: bool) -> bytes:
    import cv2

    ramp = np.tile(np.linspace(0, 65535, SIZE[0]).astype(np.uint16), (SIZE[1], 1))
    return bytes(cv2.imencode(".png", np.dstack([ramp] * 3) if colour else ramp)[1])


Maker = Callable[[], bytes]
_made: dict[str, bytes] = {}


def picture(name: str) -> bytes:
    if name not in _made:
        _made[name] = (REFUSED[name][0] if name in REFUSED else ACCEPTED[name])()
    return _made[name]


# Name → what makes it, and the fate it has under `max_pixels` as it is by default.
REFUSED: dict[str, tuple[Maker, str]] = {
    "html": (lambda: b"<!DOCTYPE html><html><body><img src=x></body></html>", "html_page"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "svg"),
    "mp4": (lambda: b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(4096), "video"),
    "zip": (zipped, "archive"),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "pdf"),
    "html_utf16": (lambda: "<html><head></head></html>".encode("utf-16"), "html_page"),
    "html_after_blanks": (lambda: b"\xef\xbb\xbf\r\n  <!-- gone -->\n<html></html>", "html_page"),
    "svg_zipped": (lambda: gzip.compress(b"<svg/>"), "archive"),
    "webm": (lambda: b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01" + bytes(999), "video"),
    "avi": (lambda: b"RIFF\xff\0\0\0AVI LIST" + bytes(999), "video"),
    "transport_stream": (lambda: (b"\x47" + bytes(187)) * 9, "video"),
    "tar": (lambda: bytes(257) + b"ustar\x0000" + bytes(999), "archive"),
    "heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(999), "not_an_image"),
    "json": (lambda: b'{"error": "gone"}', "not_an_image"),
    "one_byte": (lambda: b"\xff", "not_an_image"),
    "jpeg_magic_then_html": (lambda: b"\xff\xd8\xff\xe0<html>" + b"hello " * 500 + b"</html>", "decode_error"),
    "jpeg_head_then_zip": (lambda: jpeg_segments(saved(pixels(), "JPEG"))[0] + zipped(), "truncated_image"),
    "png_head_then_zip": (lambda: saved(pixels(), "PNG")[:41] + zipped(), "truncated_image"),
    "gif_head_then_html": (lambda: b"GIF89a=1;/*<html><script>alert(1)</script></html>*/", "too_many_pixels"),
    "bmp_head_then_text": (lambda: b"BM" + bytes(12) + b"\x28\0\0\0" + b"text " * 20, "too_many_pixels"),
    "jpeg_halved": (lambda: saved(pixels(), "JPEG")[:-400], "truncated_image"),
    "png_halved": (lambda: saved(pixels(), "PNG")[:-100], "truncated_image"),
    "webp_halved": (lambda: saved(pixels(), "WEBP")[:-100], "truncated_image"),
    "gif_halved": (lambda: saved(pixels(), "GIF")[:-1500], "decode_error"),
    "bmp_halved": (lambda: saved(pixels(), "BMP")[:-9000], "decode_error"),
    "tiff_halved": (lambda: saved(pixels(), "TIFF")[:-9000], "decode_error"),
    "avif_halved": (lambda: saved(pixels(), "AVIF")[:-100], "decode_error"),
    "png_wrong_sum": (lambda: saved(pixels(), "PNG").replace(b"IDAT", b"IDAT\x55", 1), "truncated_image"),
    "png_no_sides": (lambda: png_head(0, 0) + png_chunk(b"IEND", b""), "decode_error"),
    "png_bomb": (
        lambda: png_head(30000, 30000) + png_chunk(b"IDAT", deflated_zeros(1 << 22)) + png_chunk(b"IEND", b""),
        "too_many_pixels",
    ),
    "png_widest": (lambda: png_head(2**31 - 1, 1) + png_chunk(b"IEND", b""), "too_many_pixels"),
    "jpeg_bomb": (lambda: jpeg_stating(65500, 65500), "too_many_pixels"),
    "jpeg_progressive_bomb": (lambda: jpeg_stating(65500, 65500, progressive=True), "too_many_pixels"),
    "webp_bomb": (lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff" * 6 + bytes(9), "too_many_pixels"),
    "webp_lossless_bomb": (lambda: b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0\x2f\xff\xff\xff\x0f" + bytes(4), "too_many_pixels"),
    "gif_bomb": (lambda: b"GIF89a\xff\xff\xff\xff\x00\x00\x00;", "too_many_pixels"),
    "bmp_bomb": (
        lambda: b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 60000, -60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "too_many_pixels",
    ),
    "tiff_bomb": (lambda: tiff_stating(60000, 60000), "too_many_pixels"),
    "tiff_bomb_with_small_sides_besides": (
        lambda: tiff((256, 4, 1, 60000), (256, 4, 1, 9), (257, 4, 1, 60000), (257, 4, 1, 9), after=bytes(512)),
        "too_many_pixels",
    ),
    "gif_of_clear_codes": (gif_of_clear_codes, "too_costly"),
    "tiff_of_huge_tiles": (lambda: tiff_stating(9, 9, (322, 4, 1, 1 << 20), (323, 4, 1, 16384)), "too_costly"),
    "avif_bomb": (
        lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x20meta\0\0\0\0\0\0\0\x14ispe\0\0\0\0\0\1\0\0\0\1\0\0",
        "too_many_pixels",
    ),
    "png_chunk_of_4_gb": (lambda: png_with(b"\xff\xff\xff\x00prVt" + bytes(100)), "truncated_image"),
    "png_text_bombs": (
        lambda: png_with(*[png_chunk(b"zTXt", b"k%d\0\0" % i + deflated_zeros(7 << 20)) for i in range(100)]),
        "too_costly",
    ),
    "png_international_text_bomb": (
        lambda: png_with(png_chunk(b"iTXt", b"k\0\1\0\0\0" + deflated_zeros(200 << 20))),
        "too_costly",
    ),
    "jpeg_of_2000_scans": (lambda: jpeg_of_many_scans(2000, 4000), "too_costly"),
}

# Name → what makes it. All are pictures of SIZE, whatever else is in them.
ACCEPTED: dict[str, Maker] = {
    "jpeg": lambda: saved(pixels(), "JPEG"),
    "jpeg_progressive": lambda: saved(pixels(), "JPEG", progressive=True),
    "jpeg_grey": lambda: saved(pixels().convert("L"), "JPEG"),
    "jpeg_cmyk": lambda: saved(pixels().convert("CMYK"), "JPEG"),
    "jpeg_then_zip": lambda: saved(pixels(), "JPEG") + zipped(),
    "jpeg_then_html": lambda: saved(pixels(), "JPEG") + b"<html><script>alert(1)</script></html>",
    "jpeg_with_comments": lambda: jpeg_with(*[(0xFE, b"<html>" * 10000)] * 50),
    "jpeg_with_fill_bytes": lambda: b"\xff\xd8" + b"\xff" * 5_000_000 + saved(pixels(), "JPEG")[3:],
    "png": lambda: saved(pixels(), "PNG"),
    "png_grey": lambda: saved(pixels().convert("L"), "PNG"),
    "png_palette": lambda: saved(pixels().convert("P"), "PNG"),
    "png_1_bit": lambda: saved(pixels().convert("1"), "PNG"),
    "png_alpha": lambda: saved(pixels().convert("RGBA"), "PNG"),
    "png_grey_alpha": lambda: saved(pixels().convert("LA"), "PNG"),
    "png_16_bit": lambda: sixteen_bits(colour=True),
    "png_16_bit_grey": lambda: sixteen_bits(colour=False),
    "png_profile_bomb": lambda: png_with(png_chunk(b"iCCP", b"p\0\0" + deflated_zeros(200 << 20))),  # its decoder skips it
    "png_then_zip": lambda: saved(pixels(), "PNG") + zipped(),
    "apng": lambda: animated("PNG"),
    "gif": lambda: saved(pixels(), "GIF"),
    "gif_animated": lambda: animated("GIF"),
    "webp": lambda: saved(pixels(), "WEBP"),
    "webp_lossless": lambda: saved(pixels(), "WEBP", lossless=True),
    "webp_alpha": lambda: saved(pixels().convert("RGBA"), "WEBP"),
    "webp_animated": lambda: animated("WEBP"),
    "bmp": lambda: saved(pixels(), "BMP"),
    "tiff": lambda: saved(pixels(), "TIFF"),
    "tiff_cmyk": lambda: saved(pixels().convert("CMYK"), "TIFF"),
    "tiff_lzw": lambda: saved(pixels(), "TIFF", compression="tiff_lzw"),
    "avif": lambda: saved(pixels(), "AVIF"),
}
