"""`decode: fast` against `decode: exact`: the same sizes, the same kind of pixels, nearly the same values."""

import io
import itertools
import statistics
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pairsift.pipeline.demo.photos import load
from pairsift.stages.pixels.images import StoredImage, prepare
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.reduced import decode_reduced, shrink

MODES = ["border", "keep_ratio", "keep_ratio_largest", "center_crop"]


def both(data: bytes, **options: Any) -> tuple[StoredImage, StoredImage]:
    """Fast and exact, as PNG: what is compared is pixels before lossy encoding."""
    given = {"encode_format": "png", "encode_quality": 1, **options}
    return prepare(data, ImageOptions(decode="fast", **given)), prepare(data, ImageOptions(decode="exact", **given))


def pixels(image: StoredImage) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_UNCHANGED)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB; 100 for equal pixels. A grey level is a grey level: 16-bit pixels count by their upper byte."""
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    scale = 257.0 if one.dtype == np.uint16 else 1.0
    error = float(np.mean(np.square((one.astype(float) - other.astype(float)) / scale)))
    return 100.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def assert_near(photos: list[bytes], **options: Any) -> None:
    levels = []
    for photo in photos:
        fast, exact = both(photo, **options)
        assert fast[2:] == exact[2:]  # sizes, before and after
        levels.append(psnr(pixels(fast), pixels(exact)))
    assert statistics.median(levels) >= 40, levels
    assert min(levels) >= 29, levels


@pytest.mark.parametrize("mode", MODES)
def test_near_exact_on_the_demo_photos(mode: str) -> None:
    photos = [answer.body for answer in load().values()]
    for size in (100, 256):
        assert_near(photos, resize_mode=mode, image_size=size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [96, 128, 176, 224])
def test_near_exact_on_photographs_from_the_web(mode: str, size: int, test_data: Path) -> None:
    photos = [path.read_bytes() for path in sorted((test_data / "coco").rglob("*.jpg"))[MODES.index(mode) :: 30]]
    assert len(photos) >= 40
    assert_near(photos, resize_mode=mode, image_size=size, resize_only_if_bigger=True)


@pytest.mark.parametrize("factor", [1.2, 1.45, 1.55, 1.8, 2.05, 2.3, 2.65, 2.75, 3.0, 3.25, 3.35, 4.6])
def test_every_factor_is_near_the_mean_over_the_area(factor: float) -> None:
    """On both sides of each bound between two ways of shrinking."""
    levels = []
    for answer in load().values():
        whole = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
        size = (whole.shape[1], whole.shape[0])
        target = (round(size[0] / factor), round(size[1] / factor))
        levels.append(psnr(shrink(whole, target, size), cv2.resize(whole, target, interpolation=cv2.INTER_AREA)))
    assert statistics.median(levels) >= 40, levels
    assert min(levels) >= 30, levels


def photo(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, pillow_format, **options)
    return out.getvalue()


def turned(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def odd_files() -> dict[str, bytes]:
    """Large enough that a JPEG among them would be decoded at a fraction."""
    large = photo(801, 603)
    with_alpha = large.copy()
    with_alpha.putalpha(large.convert("L"))
    deep = np.asarray(large).astype(np.uint16) * 257
    return {
        "progressive": saved(large, "JPEG", progressive=True),
        "grey": saved(large.convert("L"), "JPEG"),
        "cmyk": saved(large.convert("CMYK"), "JPEG"),
        "no subsampling": saved(large, "JPEG", subsampling=0),
        "png, alpha": saved(with_alpha, "PNG"),
        "png, palette": saved(large.convert("P"), "PNG"),
        "png, 16 bit": cv2.imencode(".png", deep)[1].tobytes(),
        "png, 16 bit, grey": cv2.imencode(".png", deep[..., 0])[1].tobytes(),
        "webp": saved(large, "WEBP"),
        "webp, alpha": saved(with_alpha, "WEBP"),
        "gif": saved(large, "GIF"),
        **{f"orientation {tag}": saved(large, "JPEG", exif=turned(tag)) for tag in range(1, 9)},
    }


ODD = odd_files()


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_of_the_same_kind(name: str) -> None:
    for mode, orientation in itertools.product(MODES, ("apply", "ignore")):
        fast, exact = both(ODD[name], resize_mode=mode, image_size=100, orientation=orientation)
        assert fast[2:] == exact[2:]
        assert psnr(pixels(fast), pixels(exact)) >= 29


@pytest.mark.parametrize("options", [{"resize_mode": "no"}, {"image_size": 900}, {"downscale_interpolation": "cubic"}])
def test_only_shrinking_by_area_is_fast(options: dict[str, Any]) -> None:
    fast, exact = both(ODD["progressive"], **options)
    assert fast == exact


def test_extreme_sides() -> None:
    for width, height in ((2000, 3), (3, 2000), (1025, 512), (513, 1024), (2001, 1999)):
        for mode in MODES:
            fast, exact = both(saved(photo(width, height), "JPEG"), resize_mode=mode, image_size=64)
            assert fast[2:] == exact[2:]
            assert psnr(pixels(fast), pixels(exact)) >= 29


def test_a_reduced_decode_leaves_more_than_the_target() -> None:
    jpeg = saved(photo(800, 600), "JPEG")
    found = {}
    for wanted in ((62, 46), (125, 93), (250, 187), (251, 187)):
        reduced = decode_reduced(jpeg, (800, 600), wanted)
        found[wanted] = None if reduced is None else (reduced[0].shape, reduced[1])
    expected = {(62, 46): ((75, 100, 3), 8), (125, 93): ((150, 200, 3), 4), (250, 187): ((300, 400, 3), 2), (251, 187): None}
    assert found == expected


def test_what_is_turned_later_is_reduced_without_a_part_of_a_pixel() -> None:
    jpeg = saved(photo(804, 604), "JPEG")
    reduced = decode_reduced(jpeg, (804, 604), (20, 15), only_whole=True)
    assert reduced is not None
    assert reduced[1] == 4


def test_the_last_part_of_a_pixel_does_not_shift_the_picture() -> None:
    """A ramp from left to right, of 8 n + 1 pixels: a shift by a part of a pixel is a shift in value."""
    ramp = np.tile(np.linspace(0, 255, 521), (521, 1)).round().astype(np.uint8)
    fast, exact = both(saved(Image.fromarray(ramp), "JPEG", quality=100), resize_mode="keep_ratio", image_size=40)
    assert np.abs(pixels(fast).astype(int) - pixels(exact)).max() <= 2


def test_a_header_that_lies_about_the_size_is_not_trusted() -> None:
    assert decode_reduced(saved(photo(800, 600), "JPEG"), (400, 300), (40, 30)) is None


def test_cmyk_is_left_to_the_full_decoder() -> None:
    assert decode_reduced(ODD["cmyk"], (801, 603), (50, 40)) is None


@pytest.mark.parametrize("factor", [1.2, 1.7, 2.0, 2.4, 2.9, 5.3])
def test_shrinking_keeps_the_mean_of_every_pixel(factor: float) -> None:
    """Stripes one pixel wide: what only looks at some pixels would show bands."""
    stripes = np.tile(np.array([0, 255], np.uint8), (480, 240))
    target = (round(480 / factor), round(480 / factor))
    exact = cv2.resize(stripes, target, interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(stripes, target, (480, 480)).astype(int) - exact).mean() < 25
