import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.orientation import orientation, turned, turned_box

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF", "tiff": "TIFF"}


def picture(image_format: str, value: int) -> bytes:
    """48 by 32 pixels, each corner of another colour, stored as a camera would that was held as `value` says."""
    pixels = np.full((32, 48, 3), 128, np.uint8)
    pixels[:16, :16], pixels[:16, 32:], pixels[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = value
    options: dict[str, Any] = {"tiffinfo": {0x0112: value}} if image_format == "tiff" else {"exif": exif.tobytes()}
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, FORMATS[image_format], **options)
    return out.getvalue()


def as_seen(data: bytes) -> np.ndarray:
    """As Pillow shows it, which turns AVIFs while it decodes, and the others when asked."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("image_format", FORMATS)
def test_pictures_are_stored_as_viewers_show_them(image_format: str, value: int) -> None:
    data = picture(image_format, value)
    options = ImageOptions(resize_mode="no", encode_format="png", encode_quality=3)
    stored = prepare(data, options)
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(stored.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    expected = as_seen(data)
    assert shown.shape == expected.shape == ((48, 32, 3) if value >= 5 else (32, 48, 3))
    assert np.abs(shown.astype(int) - expected).mean() < 4
    if image_format != "tiff":  # which OpenCV turns by itself, whatever it is asked
        assert (stored.original_width, stored.original_height) == (48, 32)
        ignored = prepare(data, options.model_copy(update={"orientation": "ignore"}))
        assert (ignored.width, ignored.height) == (48, 32)


def test_a_turned_picture_is_stored_anew_even_if_nothing_else_is_done_to_it() -> None:
    options = ImageOptions(resize_mode="no", skip_reencode=True)
    assert prepare(picture("jpg", 6), options).data != picture("jpg", 6)
    assert prepare(picture("jpg", 1), options).data == picture("jpg", 1)


@pytest.mark.parametrize("value", range(1, 9))
def test_boxes_move_with_the_pixels(value: int) -> None:
    pixels = np.zeros((20, 40), np.uint8)
    pixels[2:6, 10:30] = 255
    left, top, right, bottom = turned_box((10 / 40, 2 / 20, 30 / 40, 6 / 20), value)
    moved = turned(pixels, value)
    height, width = moved.shape
    inside = moved[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    assert inside.size == 80
    assert inside.min() == 255


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp", "avif"])
def test_what_cannot_be_read_is_upright(image_format: Any) -> None:
    data = picture(image_format, 6)
    assert orientation(data, image_format) == 6
    for end in range(len(data)):
        assert orientation(data[:end], image_format) in (1, 6)
    at = data.find(b"\x01\x12\0\x03") if image_format != "avif" else -1
    if at >= 0:
        assert orientation(data[: at + 8] + b"\0\x09" + data[at + 10 :], image_format) == 1
