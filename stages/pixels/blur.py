"""Boxes in an image made unrecognisable, such as faces: img2dataset's blur, which is that of ImageNet's obfuscated edition.

Yang, Yau, Fei-Fei, Deng, Russakovsky: "A Study of Face Obfuscation in ImageNet" (https://arxiv.org/abs/2103.06191). Each
box grows on every side by a tenth of its longer side; the whole image is blurred once; image and blurred image are mixed by
the boxes' mask, blurred itself so that no edge shows.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of width and height


def blur_boxes(pixels: npt.NDArray[Any], boxes: Sequence[Box]) -> npt.NDArray[Any]:
    """The same image with the boxes blurred: shape (height, width) or (height, width, channels), dtype kept.

    The radius of the Gaussian kernel is a tenth of the longest box's longer side, in pixels and rounded up; its sigma is
    what OpenCV takes for a kernel of that size (0.3 * (radius - 1) + 0.8). Equal to `img2dataset.blurrer` within one level:
    that one truncates where this one rounds, and changes pixels far from any box by it.
    """
    if not boxes:
        return pixels
    height, width = pixels.shape[:2]
    mask: npt.NDArray[Any] = np.zeros((height, width), np.float32)
    longest = 0
    for left, top, right, bottom in boxes:
        corners = (int(left * width), int(top * height), int(right * width), int(bottom * height))
        side = max(corners[2] - corners[0], corners[3] - corners[1])
        longest = max(longest, side)
        x0, y0 = (_within(int(corner - 0.1 * side), size) for corner, size in zip(corners[:2], (width, height), strict=True))
        x1, y1 = (_within(int(corner + 0.1 * side), size) for corner, size in zip(corners[2:], (width, height), strict=True))
        mask[y0:y1, x0:x1] = 1
    kernel = max(3, 2 * math.ceil(0.1 * longest) + 1)
    mask = cv2.GaussianBlur(mask, (kernel, kernel), sigmaX=0)
    if pixels.ndim == 3:
        mask = mask[:, :, np.newaxis]
    sharp = pixels.astype(np.float32)
    blurred = cv2.GaussianBlur(sharp, (kernel, kernel), sigmaX=0).reshape(sharp.shape)
    mixed: npt.NDArray[Any] = np.rint(sharp * (1 - mask) + blurred * mask).astype(pixels.dtype)
    return mixed


def _within(corner: int, size: int) -> int:
    return min(max(corner, 0), size - 1)
