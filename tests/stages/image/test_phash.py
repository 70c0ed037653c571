from typing import Any

import cv2
import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pairsift.stages.image.phash import ImagePhash


def png(pixels: Any) -> bytes:
    return bytes(cv2.imencode(".png", np.asarray(pixels))[1])


def hashed(images: list[bytes | None], **parameters: Any) -> dict[str, list[Any]]:
    with ImagePhash(**parameters).open() as transform:
        result = transform(pa.table({"ordinal": range(len(images)), "image": pa.array(images, pa.large_binary())}))
    assert isinstance(result, pa.Table)
    found: dict[str, list[Any]] = result.to_pydict()
    return found


def far(left: str, right: str) -> int:
    assert len(left) == len(right)
    return (int(left, 16) ^ int(right, 16)).bit_count()


def test_it_is_imagehashs_phash_of_the_grey_image(photos: dict[str, bytes]) -> None:
    data = photos["coffee.jpg"]
    grey = Image.fromarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE))
    # OpenCV's own way to grey, from the JPEG's luma, may differ in a level.
    assert far(hashed([data])["phash"][0], str(imagehash.phash(grey, hash_size=16))) <= 2
    short = hashed([data], bits=64)["phash"][0]
    assert len(short) == 16
    assert far(short, str(imagehash.phash(grey))) <= 2


def test_the_same_photo_is_near_and_another_is_far(photos: dict[str, bytes]) -> None:
    pixels = cv2.imdecode(np.frombuffer(photos["coffee.jpg"], np.uint8), cv2.IMREAD_COLOR)
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    poor = bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1])
    first, *others = hashed([png(pixels), png(half), poor, photos["rocket.jpg"]])["phash"]
    assert [far(first, other) <= 10 for other in others] == [True, True, False]
    assert far(first, others[2]) > 60


def test_flat_images_have_no_hash(photos: dict[str, bytes]) -> None:
    wall = np.full((40, 60, 3), 200, np.uint8)
    noisy = (wall + np.random.default_rng(0).normal(0, 3, wall.shape)).clip(0, 255).astype(np.uint8)
    clear = np.zeros((40, 60, 4), np.uint8)  # transparent: white
    found = hashed([png(wall), png(noisy), png(clear), png(wall[..., 0]), photos["coffee.jpg"]])
    assert [text is None for text in found["phash"]] == [True] * 4 + [False]
    assert found["phash_contrast"][0] == 0
    assert found["phash_contrast"][1] < 2 < found["phash_contrast"][4]
    assert found["failure"] == [None] * 5
    assert hashed([png(noisy)], least_contrast=0)["phash"][0] is not None


def test_depth_and_transparency_are_read_as_they_look(photos: dict[str, bytes]) -> None:
    pixels = cv2.imdecode(np.frombuffer(photos["coffee.jpg"], np.uint8), cv2.IMREAD_COLOR)
    deep = pixels.astype(np.uint16) * 257
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    assert len(set(hashed([png(pixels), png(deep), png(opaque)])["phash"])) == 1


def test_damaged_missing_and_huge_images(photos: dict[str, bytes]) -> None:
    found = hashed([b"damaged", None, photos["coffee.jpg"][:2000], photos["coffee.jpg"]], max_pixels=100)
    assert found["phash"] == [None] * 4
    assert found["failure"] == ["image_unreadable", None, "image_unreadable", "image_unreadable"]
    assert "max_pixels is 100" in found["failure_detail"][3]


@pytest.mark.parametrize("bits", [64, 256])
def test_the_same_twice(bits: int, photos: dict[str, bytes]) -> None:
    images: list[bytes | None] = [*photos.values()]
    assert hashed(images, bits=bits) == hashed(images, bits=bits)
