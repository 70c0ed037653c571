"""The quick way to a PNG's pixels gives OpenCV's, or leaves the file to OpenCV."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pairsift.stages.pixels.coding import decode
from pairsift.stages.pixels.png import MAX_PIXELS, decode_png

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DICE = np.random.default_rng(5)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: bytes, width: int, height: int, colour: int = 2, **changed: Any) -> bytes:
    """A PNG with these filtered rows; `before` and `after` are chunks beside its IDAT, `depth` and `interlace` fields."""
    fields = (width, height, changed.get("depth", 8), colour, 0, 0, changed.get("interlace", 0))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)), *changed.get("before", [])]
    parts += changed.get("idat", [chunk(b"IDAT", zlib.compress(rows))])
    return b"".join([SIGNATURE, *parts, *changed.get("after", []), chunk(b"IEND")])


def rows_of(width: int, height: int, channels: int = 3, *, filters: int = 5) -> bytes:
    """Rows with filters 0, 1, … in turn. Any bytes are a picture."""
    rows = DICE.integers(0, 256, (height, 1 + width * channels), dtype=np.uint8)
    rows[:, 0] = np.arange(height) % filters
    return rows.tobytes()


def opencv(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def assert_same(data: bytes) -> None:
    found, wanted = decode_png(data), opencv(data)
    assert found is not None
    assert wanted is not None
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (64, 64), (333, 222), (30_000, 2)])
def test_every_filter_gives_opencvs_pixels(size: tuple[int, int], channels: int) -> None:
    assert_same(png(rows_of(*size, channels), *size, {3: 2, 4: 6}[channels]))


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_every_kind_of_deflate_block(level: int) -> None:
    smooth = np.add.outer(np.arange(200), np.arange(300))[..., np.newaxis] // np.array([2, 3, 5])
    buffer = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(buffer, "PNG", compress_level=level)
    assert_same(buffer.getvalue())


@pytest.mark.parametrize(
    "before",
    [
        [chunk(b"gAMA", struct.pack(">I", 45455))],
        [chunk(b"sBIT", b"\5\5\5")],
        [chunk(b"bKGD", b"\0\1\0\2\0\3")],
        [chunk(b"cHRM", bytes(32))],
        [chunk(b"pHYs", bytes(9)), chunk(b"tEXt", b"Title\0Cat")],
        [chunk(b"PLTE", bytes(30))],
        [chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile"))],
        [chunk(b"prVt", b"whatever")],
    ],
)
def test_chunks_that_do_not_change_pixels(before: list[bytes]) -> None:
    assert_same(png(rows_of(20, 10), 20, 10, before=before))


def test_image_data_in_many_chunks() -> None:
    deflated = zlib.compress(rows_of(200, 100))
    pieces = [chunk(b"IDAT", deflated[start : start + 1000]) for start in range(0, len(deflated), 1000)]
    assert_same(png(b"", 200, 100, idat=[*pieces, chunk(b"IDAT")]))


GOOD = zlib.compress(rows_of(20, 10))
LEFT_TO_OPENCV = {
    "palette": png(rows_of(20, 10, 1), 20, 10, 3, before=[chunk(b"PLTE", bytes(768))]),
    "grey": png(rows_of(20, 10, 1), 20, 10, 0),
    "sixteen bits": png(rows_of(20, 10, 6), 20, 10, depth=16),
    "interlaced": png(rows_of(20, 10), 20, 10, interlace=1),
    "transparent colour": png(rows_of(20, 10), 20, 10, before=[chunk(b"tRNS", bytes(6))]),
    "animated": png(rows_of(20, 10), 20, 10, before=[chunk(b"acTL", struct.pack(">II", 1, 0))]),
    "unknown critical chunk": png(rows_of(20, 10), 20, 10, before=[chunk(b"ABCD")]),
    "two headers": png(rows_of(20, 10), 20, 10, before=[chunk(b"IHDR", bytes(13))]),
    "a chunk between image data": png(
        b"", 20, 10, idat=[chunk(b"IDAT", GOOD[:50]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", GOOD[50:])]
    ),
    "no image data": png(b"", 20, 10, idat=[]),
    "a row too few": png(rows_of(20, 9), 20, 10),
    "a row too many": png(rows_of(20, 11), 20, 10),
    "image data cut short": png(b"", 20, 10, idat=[chunk(b"IDAT", GOOD[:-5])]),
    "wrong checksum of rows": png(b"", 20, 10, idat=[chunk(b"IDAT", GOOD[:-1] + bytes([GOOD[-1] ^ 1]))]),
    "wrong checksum of a chunk": png(b"", 20, 10, idat=[chunk(b"IDAT", GOOD)[:-1] + b"\0"]),
    "not deflated": png(b"", 20, 10, idat=[chunk(b"IDAT", b"no zlib stream at all")]),
    "a filter that there is not": png(rows_of(20, 10, filters=6), 20, 10),
    "cut short": png(rows_of(20, 10), 20, 10)[:-20],
    "header only": png(rows_of(20, 10), 20, 10)[:30],
}


@pytest.mark.parametrize("name", LEFT_TO_OPENCV)
def test_whatever_is_odd_is_left_to_opencv(name: str) -> None:
    assert decode_png(LEFT_TO_OPENCV[name]) is None


def test_larger_images_are_left_to_opencv() -> None:
    width, height = 2048, 1024
    assert width * height == MAX_PIXELS
    assert_same(png(rows_of(width, height), width, height))
    assert decode_png(png(rows_of(width, height + 1), width, height + 1)) is None


def test_no_more_is_inflated_than_the_header_says() -> None:
    bomb = png(bytes(300_000_000), 20, 10)
    assert decode_png(bomb) is None


def test_the_image_decoder_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(rows_of(20, 10), 20, 10)
    expected = opencv(data)
    monkeypatch.setattr(cv2, "imdecode", None)
    np.testing.assert_array_equal(decode(data), expected)
