"""Boxes are blurred as img2dataset's `BoundingBoxBlurrer` blurs them."""

import itertools

import numpy as np
import pytest
from img2dataset.blurrer import BoundingBoxBlurrer

from pairsift.stages.pixels.blur import Box, blur_boxes

BOXES: list[Box] = [
    (0.1, 0.2, 0.4, 0.5),
    (0.0, 0.0, 1.0, 1.0),
    (0.5, 0.5, 0.5, 0.5),
    (0.8, 0.7, 1.1, 1.2),
    (-0.2, 0.3, 0.1, 0.35),
]


@pytest.mark.parametrize("shape", [(90, 120, 3), (33, 40), (200, 31, 3), (1, 1, 3)])
def test_equal_to_img2datasets_within_one_level(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for boxes in ([box] for box in BOXES), itertools.combinations(BOXES, 2):
        for some in boxes:
            theirs = BoundingBoxBlurrer()(pixels, list(some)).astype(int)
            assert np.abs(blur_boxes(pixels, list(some)).astype(int) - theirs.reshape(shape)).max() <= 1


def test_nothing_but_the_boxes_changes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    blurred = blur_boxes(pixels, [(0.4, 0.4, 0.6, 0.6)])
    assert blurred.dtype == np.uint8
    changed = np.argwhere((blurred != pixels).any(axis=2))
    assert changed.min() >= 36
    assert changed.max() <= 64
    assert blurred[45:55, 45:55].std() < pixels[45:55, 45:55].std() / 2
    assert blur_boxes(pixels, []) is pixels


def test_depth_is_kept() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (50, 50, 3), np.uint16)
    blurred = blur_boxes(pixels, [(0.4, 0.4, 0.6, 0.6)])
    assert blurred.dtype == np.uint16
    assert (blurred[:10] == pixels[:10]).all()
