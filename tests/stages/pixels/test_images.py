"""`prepare` against the real img2dataset, to the byte, and against what img2dataset does not refuse."""

import importlib.util
import io
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pairsift.stages.fates import Failure
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions

MODES = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
QUALITY = {"jpg": 95, "png": 4, "webp": 90}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # albumentations, in img2dataset


@pytest.fixture(scope="module")
def their_resizer() -> Callable[..., Any]:
    """img2dataset's own Resizer. Its albumentations would ask the network for a newer version when imported."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

    return Resizer  # type: ignore[no-any-return]


def sample(name: str) -> bytes:
    """One of scikit-learn's photographs, 640 by 427 pixels."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "datasets" / "images" / name).read_bytes()


def saved(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, pillow_format, **options)
    return out.getvalue()


def variants() -> dict[str, bytes]:
    """A photograph of 300 by 200 pixels in the forms that make trouble."""
    photo = Image.open(io.BytesIO(sample("flower.jpg"))).convert("RGB").resize((300, 200))
    pixels = np.asarray(photo)
    alpha = np.dstack([pixels, np.tile(np.arange(300) % 256, (200, 1)).astype(np.uint8)])
    with_alpha = Image.fromarray(alpha)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "large": sample("china.jpg"),
        "small": saved(photo.resize((90, 61)), "JPEG"),
        "progressive": saved(photo, "JPEG", progressive=True),
        "grey": saved(photo.convert("L"), "JPEG"),
        "cmyk": saved(photo.convert("CMYK"), "JPEG"),
        "turned by EXIF": saved(photo, "JPEG", exif=turned),
        "png": saved(photo, "PNG"),
        "png, alpha": saved(with_alpha, "PNG"),
        "png, grey and alpha": saved(with_alpha.convert("LA"), "PNG"),
        "png, palette": saved(photo.convert("P"), "PNG", transparency=3),
        "png, one bit": saved(photo.convert("1"), "PNG"),
        "png, 16 bit": bytes(cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1]),
        "png, 16 bit, grey": bytes(cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 257)[1]),
        "png, 16 bit, alpha": bytes(cv2.imencode(".png", alpha.astype(np.uint16) * 257)[1]),
        "webp": saved(photo, "WEBP"),
        "webp, alpha": saved(with_alpha, "WEBP"),
        "gif": saved(photo, "GIF"),
        "bmp": saved(photo, "BMP"),
        "tiff": saved(photo, "TIFF"),
        "tiff, float": bytes(cv2.imencode(".tiff", pixels.astype(np.float32) / 255)[1]),
        "avif": saved(photo, "AVIF"),
        "strip": saved(photo.resize((120, 3)), "PNG"),
        "dot": saved(photo.resize((1, 1)), "PNG"),
    }


VARIANTS = variants()


def assert_same(data: bytes, resizer: Callable[..., Any], **options: Any) -> None:
    theirs = resizer(**{"image_size": 256, "resize_mode": "border", "resize_only_if_bigger": False, **options})(
        io.BytesIO(data)
    )
    ours = prepare(data, ImageOptions(orientation="ignore", decode="exact", **options))
    sizes = (ours.width, ours.height, ours.original_width, ours.original_height)
    assert (sizes, None) == (theirs[1:5], theirs[5])
    assert ours.data == theirs[0]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
def test_same_bytes_as_img2dataset(their_resizer: Callable[..., Any], name: str, mode: str) -> None:
    for encode_format, quality in QUALITY.items():
        if encode_format == "webp" and name not in ("large", "png, 16 bit", "grey"):
            continue  # slow to encode; three stand for all
        assert_same(VARIANTS[name], their_resizer, resize_mode=mode, encode_format=encode_format, encode_quality=quality)


@pytest.mark.parametrize("name", ["large", "small", "progressive", "cmyk", "png", "png, alpha", "webp", "gif"])
@pytest.mark.parametrize("mode", MODES)
def test_same_bytes_where_some_are_left_alone(their_resizer: Callable[..., Any], name: str, mode: str) -> None:
    for encode_format, quality in QUALITY.items():
        assert_same(
            VARIANTS[name],
            their_resizer,
            resize_mode=mode,
            encode_format=encode_format,
            encode_quality=quality,
            resize_only_if_bigger=True,
            skip_reencode=True,
            image_size=400,
        )


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"])
def test_same_interpolations(their_resizer: Callable[..., Any], interpolation: str) -> None:
    for name in ("large", "small"):
        assert_same(VARIANTS[name], their_resizer, upscale_interpolation=interpolation, downscale_interpolation=interpolation)


def test_same_bytes_on_photographs_from_the_web(their_resizer: Callable[..., Any], test_data: Path) -> None:
    photos = sorted((test_data / "coco").rglob("*.jpg"))[::60]
    assert len(photos) > 20
    for i, photo in enumerate(photos):
        assert_same(photo.read_bytes(), their_resizer, resize_mode=MODES[i % 5], image_size=224)


def test_same_verdicts_on_size(their_resizer: Callable[..., Any]) -> None:
    rules: dict[Failure, dict[str, Any]] = {
        Failure.TOO_SMALL: {"min_image_size": 201},
        Failure.TOO_LARGE: {"max_image_area": 59_999.0},
        Failure.ASPECT_RATIO: {"max_aspect_ratio": 1.49},
    }
    allowed: dict[str, Any] = {"min_image_size": 200, "max_image_area": 60_000.0, "max_aspect_ratio": 1.5}
    data = VARIANTS["png"]
    assert_same(data, their_resizer, **allowed)
    for failure, rule in rules.items():
        assert their_resizer(256, "border", resize_only_if_bigger=False, **rule)(io.BytesIO(data))[5] is not None
        with pytest.raises(ImageError, match="300x200 pixels") as caught:
            prepare(data, ImageOptions.model_validate(rule))
        assert caught.value.failure is failure


def test_undecoded_files_keep_their_bytes_and_have_a_size() -> None:
    for name in ("cmyk", "gif", "avif", "png, alpha"):
        stored = prepare(VARIANTS[name], ImageOptions(disable_all_reencoding=True))
        assert stored.data == VARIANTS[name]
        assert (stored.width, stored.height, stored.original_width, stored.original_height) == (300, 200, 300, 200)
        assert stored.format == {"cmyk": "jpg"}.get(name, name.partition(",")[0])


def failure_of(data: bytes, **options: Any) -> Failure:
    with pytest.raises(ImageError) as caught:
        prepare(data, ImageOptions(**options))
    assert str(caught.value)
    return caught.value.failure


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_that_is_cut_short_is_refused(name: str) -> None:
    data = VARIANTS[name]
    for kept in (len(data) - 2, len(data) * 9 // 10, len(data) // 2):
        assert failure_of(data[:kept]) in (Failure.TRUNCATED_IMAGE, Failure.DECODE_ERROR)


def test_what_is_no_image_is_refused() -> None:
    assert failure_of(b"<html><body>gone</body></html>") is Failure.HTML_PAGE
    assert failure_of(b"") is Failure.NOT_AN_IMAGE
    assert failure_of(b"\x89PNG\r\n\x1a\n" + bytes(50)) is Failure.DECODE_ERROR


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of zeros: a thousandth of its pixels' bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded() -> None:
    resource = pytest.importorskip("resource")
    data = bomb(20_000, 20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert failure_of(data) is Failure.TOO_MANY_PIXELS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100_000_000  # the pixels would be 400 MB
    assert failure_of(data, disable_all_reencoding=True) is Failure.TOO_MANY_PIXELS
    assert prepare(bomb(800, 800), ImageOptions(max_pixels=640_000)).original_width == 800


def test_enlarging_a_strip_is_bounded_too() -> None:
    assert failure_of(bomb(60_000, 1), resize_mode="keep_ratio", image_size=256) is Failure.TOO_MANY_PIXELS


def test_a_side_that_jpeg_cannot_hold_is_told() -> None:
    assert failure_of(bomb(70_000, 2), resize_mode="no") is Failure.ENCODE_ERROR


@pytest.mark.parametrize(
    "wrong",
    [
        {"encode_format": "png"},  # whose quality is a compression level from 0 to 9, and the default is 95
        {"encode_format": "webp", "encode_quality": 0},
        {"resize_mode": "stretch"},
        {"upscale_interpolation": "magic"},
        {"image_size": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageOptions.model_validate(wrong)
