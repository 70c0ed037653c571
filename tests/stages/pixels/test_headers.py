import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pairsift.stages.pixels.headers import header_size, is_truncated, sniff

SIZE = (53, 31)
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "jpg, progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "webp, lossless": ("WEBP", {"lossless": True}),
    "webp, extended": ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff, big": ("TIFF", {"big_tiff": True}),
    "tiff, directory last": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {}),
}


def picture(name: str, size: tuple[int, int] = SIZE) -> bytes:
    pillow_name, options = FORMATS[name]
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, pillow_name, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_format_and_size_are_told(name: str) -> None:
    data = picture(name)
    image_format = sniff(data)
    assert image_format == name.partition(",")[0]
    assert header_size(data, image_format) == SIZE
    assert not is_truncated(data, image_format)
    assert not is_truncated(data + b"\0\r\n", image_format)  # what follows the end is nobody's business


@pytest.mark.parametrize("name", FORMATS)
def test_any_cut_is_harmless_and_a_cut_file_is_noticed(name: str) -> None:
    """By `is_truncated` in the web's formats, in any version of OpenCV; by the decoder in the others."""
    data = picture(name)
    for length in [*range(64), *range(64, len(data), 97), len(data) - 2]:
        cut = data[:length]
        image_format = sniff(cut)
        if image_format is None or header_size(cut, image_format) is None:
            continue
        if image_format in ("jpg", "png", "webp"):
            assert is_truncated(cut, image_format), length
        else:
            assert cv2.imdecode(np.frombuffer(cut, np.uint8), cv2.IMREAD_UNCHANGED) is None, length


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"<!DOCTYPE html>",
        b"BMW drives away with it",
        b"%PDF-1.7",
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x18ftypheic" + bytes(12),
    ],
)
def test_what_is_no_image(data: bytes) -> None:
    assert sniff(data) is None


def test_a_thumbnail_is_not_the_picture() -> None:
    """A JPEG in the EXIF block has a size and an end marker of its own; neither is the picture's."""
    small, large = picture("jpg", (8, 8)), picture("jpg")
    thumbnail = b"Exif\0\0" + small
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + large[2:]
    assert header_size(data, "jpg") == SIZE
    assert not is_truncated(data, "jpg")
    assert is_truncated(data[:-200], "jpg")


def test_senseless_headers_have_no_size() -> None:
    assert header_size(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000, "jpg") is None
    assert header_size(b"\xff\xd8\xff" + bytes(100), "jpg") is None
    png = bytearray(picture("png"))
    png[16:20] = bytes(4)
    assert header_size(bytes(png), "png") is None


def test_a_bitmap_may_run_from_the_top_down() -> None:
    data = bytearray(picture("bmp"))
    data[22:26] = struct.pack("<i", -SIZE[1])
    assert header_size(bytes(data), "bmp") == SIZE


def tiff_of(*entries: tuple[int, int, int]) -> bytes:
    """Little-endian, with one directory of (tag, type, value)."""
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def test_of_a_tag_that_comes_twice_the_first_counts_as_for_libtiff() -> None:
    twice = tiff_of((256, 4, 20_000), (256, 4, 10), (257, 3, 20_000), (257, 3, 10))
    assert header_size(twice, "tiff") == (20_000, 20_000)
    signed = tiff_of((256, 9, 20_000), (256, 4, 10), (257, 9, 20_000), (257, 4, 10))  # libtiff takes SLONG, too
    assert header_size(signed, "tiff") is None


def padded_avif(padding: int) -> bytes:
    """A picture of 200 x 100 pixels, whose size stands behind so many bytes that name another."""
    out = io.BytesIO()
    Image.new("L", (200, 100)).save(out, "AVIF")
    data = out.getvalue()
    meta, place = data.index(b"meta") - 4, data.index(b"iprp") - 4
    free = struct.pack(">I4s", padding, b"free") + (b"\0\0\0\x14ispe" + struct.pack(">III", 0, 9, 9)).ljust(padding - 8, b"\0")
    offset = struct.pack(">I", data.index(b"mdat") + 4)  # of the picture's bytes, as iloc has it
    head = data[:place].replace(offset, struct.pack(">I", data.index(b"mdat") + 4 + padding))
    size = struct.unpack_from(">I", data, meta)[0] + padding
    return head[:meta] + struct.pack(">I", size) + head[meta + 4 :] + free + data[place:]


def test_an_avif_says_its_size_anywhere_in_its_meta_box() -> None:
    data = padded_avif(100_000)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape[:2] == (100, 200)
    assert header_size(data, "avif") == (200, 100)


def test_an_avif_of_many_pictures_is_as_large_as_its_tracks() -> None:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green")]
    frames[0].save(out, "AVIF", save_all=True, append_images=frames[1:])
    data = out.getvalue()
    assert header_size(data, "avif") == (64, 48)
    at = data.index(struct.pack(">II", 64 << 16, 48 << 16), data.index(b"tkhd"))
    larger = data[:at] + struct.pack(">II", 9000 << 16, 8000 << 16) + data[at + 8 :]
    assert header_size(larger, "avif") == (9000, 8000)
