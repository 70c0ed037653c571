from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.image.statistics import ImageStatistics


def png(pixels: Any, extension: str = ".png") -> bytes:
    return bytes(cv2.imencode(extension, np.asarray(pixels))[1])


def measured(images: list[bytes | None], **parameters: Any) -> dict[str, list[Any]]:
    stage = ImageStatistics(**parameters)
    with stage.open() as transform:
        result = transform(pa.table({"ordinal": range(len(images)), "image": pa.array(images, pa.large_binary())}))
    assert isinstance(result, pa.Table)
    found: dict[str, list[Any]] = result.to_pydict()
    return found


NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
WALL = np.full((40, 20, 3), 200, np.uint8)


def test_noise_a_wall_and_a_wall_with_a_picture() -> None:
    framed = np.full((100, 100), 255, np.uint8)
    framed[40:60, 40:60] = NOISE[:20, :20, 0] // 2
    found = measured([png(NOISE), png(WALL), png(framed), None])
    assert found["image_width"] == [90, 20, 100, None]
    assert found["image_height"] == [60, 40, 100, None]
    assert found["aspect_ratio"] == [1.5, 2, 1, None]
    assert found["image_type"] == ["png"] * 3 + [None]
    assert found["image_bytes"] == [len(png(NOISE)), len(png(WALL)), len(png(framed)), None]
    assert found["sharpness"][0] > 10_000 > found["sharpness"][2] > found["sharpness"][1] == 0
    assert found["entropy"][0] > 7 > found["entropy"][2] > found["entropy"][1] == 0
    assert found["single_color"] == pytest.approx([found["single_color"][0], 1, 0.96, None])
    assert found["single_color"][0] < 0.02
    assert found["failure"] == [None] * 4


def test_blur_lowers_sharpness_by_far_more_than_size(photos: dict[str, bytes]) -> None:
    pixels = cv2.imdecode(np.frombuffer(photos["coffee.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(pixels, (0, 0), 6)
    whole, smaller, soft = measured([png(pixels), png(half), png(blurred)], side=200)["sharpness"]
    assert max(whole, smaller) / min(whole, smaller) < 1.6
    assert soft < whole / 5


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 8), 200, np.uint8),
        np.full((8, 8), 200 << 8, np.uint16),
        np.full((8, 8, 3), 200, np.uint8),
        np.dstack([np.full((8, 8, 3), 7, np.uint8), np.zeros((8, 8), np.uint8)]),
    ],
    ids=["grey", "16 bits", "colour", "transparent"],
)
def test_depths_and_channels(pixels: Any) -> None:
    found = measured([png(pixels)])
    assert (found["single_color"], found["entropy"], found["failure"]) == ([1], [0], [None])


def test_the_header_alone() -> None:
    found = measured([png(NOISE, ".jpg"), None], pixels=False)
    assert found["image_width"] == [90, None]
    assert "sharpness" not in found
    assert measured([png(NOISE)], pixels=False, max_pixels=1)["failure"] == [None], "nothing is decoded"


def test_what_cannot_be_decoded_is_a_fate() -> None:
    whole = png(NOISE)
    images: list[bytes | None] = [b"<html>", whole[:500], b"", png(NOISE), whole]
    found = measured(images, max_pixels=60 * 90)
    assert found["failure"] == ["image_unreadable"] * 3 + [None] * 2
    assert found["image_bytes"][:3] == [None] * 3
    assert measured([whole], max_pixels=60 * 90 - 1)["failure_detail"] == ["90x60 pixels, max_pixels is 5399"]
