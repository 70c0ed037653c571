"""Making images smaller for less than half the CPU time of a full decode and INTER_AREA, and nearly the same pixels.

A JPEG decoder can give 1/2, 1/4 or 1/8 of the size by transforming fewer coefficients. What is left to do is then at most a
factor of 3.2. OpenCV's INTER_AREA spends most of its time on factors that are no integers; a blur over 3 x 3 pixels that fits
the factor, and one bilinear sample per pixel, come close to it at a quarter of the price. Where more is left, bilinear samples
at twice the target and more are averaged (docs/decisions/14-decoders.md has figures).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pairsift.stages.pixels.headers import Size, jpeg_components

Pixels = npt.NDArray[Any]

_MARGIN = 1.6  # a reduced image has so many times the target's sides at least: what the transform cuts off, a mean does not
_BILINEAR_UP_TO = 1.5  # factor; up to here each pixel of the source has its share in two samples
_GAUSSIAN_UP_TO = 2.7  # factor; beyond it, the mean of 3 x 3 pixels is nearer to the mean over the area than any Gaussian
_BLURRED_UP_TO = 3.3  # factor; beyond it, 3 x 3 pixels and a sample leave too many out
_SAMPLES_EVERY = 1.25  # pixels of the source, where there are several samples per pixel
_WARP_SIDES = 32767  # pixels; OpenCV's warps take sides below that
_ANY_COLOUR = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION  # grey stays grey
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | _ANY_COLOUR,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | _ANY_COLOUR,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | _ANY_COLOUR,
}


def decode_reduced(jpeg: bytes, size: Size, target: Size, *, only_whole: bool = False) -> tuple[Pixels, int] | None:
    """A JPEG's pixels at 1/2, 1/4 or 1/8 of `size`, its own, and 2, 4 or 8; where that leaves 1.6 times `target`'s sides.

    Pixels are uint8, (height, width) or (height, width, 3). Sides are rounded up, so that the last row and column may stand
    for fewer pixels than the others; `only_whole` takes factors only that leave none over. None where a full decode is called
    for: no factor fits, the file is neither grey nor of three components, or the decoder wants none of it. Both sizes are
    (width, height) in pixels, before any turning.
    """
    factor = _reduction(size, target, only_whole=only_whole)
    if factor == 1 or jpeg_components(jpeg) not in (1, 3):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), _REDUCED[factor])
    except cv2.error:
        return None
    if pixels is None or pixels.shape[1::-1] != (-(-size[0] // factor), -(-size[1] // factor)):
        return None
    return pixels, factor


def _reduction(size: Size, target: Size, *, only_whole: bool) -> int:
    for factor in (8, 4, 2):
        enough = all(side >= factor * _MARGIN * wanted for side, wanted in zip(size, target, strict=True))
        if enough and not (only_whole and (size[0] % factor or size[1] % factor)):
            return factor
    return 1


def shrink(pixels: Pixels, target: Size, size: Size, factor: int = 1) -> Pixels:
    """8-bit pixels at `target`, which is smaller in both sides: the mean over about the area of each pixel. They are an image
    of `size`, decoded at 1/`factor`. Sizes are (width, height) in pixels."""
    extent = (size[0] / factor, size[1] / factor)  # of the image, in the pixels at hand; the last of them may be a part only
    whole = extent == pixels.shape[1::-1]
    if whole and extent[0] % target[0] == 0 and extent[1] % target[1] == 0:
        return cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)
    left, most = sorted((extent[0] / target[0], extent[1] / target[1]))
    if left <= _BILINEAR_UP_TO:
        return _bilinear(pixels, target, extent)
    if most <= _BLURRED_UP_TO:
        return _bilinear(_blurred(pixels, left), target, extent)
    samples = max(2, round(left / _SAMPLES_EVERY))  # per side of a pixel
    sampled = _bilinear(pixels, (target[0] * samples, target[1] * samples), extent)
    return cv2.resize(sampled, target, interpolation=cv2.INTER_AREA)


def _blurred(pixels: Pixels, factor: float) -> Pixels:
    """Blurred so that bilinear samples `factor` pixels apart come near to means over that area.

    The Gaussian's sigma, in pixels, is the line that fits best on photographs: 0.5 at a factor of 1.6, 0.78 at 2.6.
    """
    if factor <= _GAUSSIAN_UP_TO:
        return cv2.GaussianBlur(pixels, (3, 3), 0.5 + 0.28 * (factor - 1.6), borderType=cv2.BORDER_REPLICATE)
    return cv2.blur(pixels, (3, 3), borderType=cv2.BORDER_REPLICATE)


def _bilinear(pixels: Pixels, target: Size, extent: tuple[float, float]) -> Pixels:
    """The part of the pixels that starts at their upper left corner and has the sides `extent`, resized to `target`."""
    if extent == pixels.shape[1::-1] or max(*target, *pixels.shape[:2]) >= _WARP_SIDES:
        return cv2.resize(pixels, target, interpolation=cv2.INTER_LINEAR)
    x, y = extent[0] / target[0], extent[1] / target[1]
    inverse = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5]])  # the centres of pixels are at n + 1/2
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, inverse, target, flags=how, borderMode=cv2.BORDER_REPLICATE)
