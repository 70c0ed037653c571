"""Images in the size that the options ask for: resized, cropped, padded."""

from collections.abc import Sequence

import cv2
import numpy as np

from pairsift.stages.fates import Failure
from pairsift.stages.pixels.blur import Box, blur_boxes
from pairsift.stages.pixels.coding import ImageError, Pixels, image_error
from pairsift.stages.pixels.headers import Size
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.reduced import shrink

_INTERPOLATION: dict[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}
_WHITE = (255, 255, 255)


def resize(
    pixels: Pixels, options: ImageOptions, boxes: Sequence[Box] = (), size: Size | None = None, factor: int = 1
) -> Pixels | None:
    """Pixels in the size that the options ask for, with `boxes` blurred before anything is cropped or padded; None where they
    are to be left as they are. Where they were decoded at 1/`factor`, `size` is that of the whole image.

    Raises ImageError: see `target_size`; DECODE_ERROR for a depth that cannot be resized.
    """
    size = size or size_of(pixels)
    target = target_size(size, options)
    if target is None:
        return None
    if target != size_of(pixels):
        pixels = _resample(pixels, target, options, size, factor)
    pixels = blur_boxes(pixels, boxes)
    if options.resize_mode == "center_crop":
        return _center_crop(pixels, options.image_size)
    if options.resize_mode == "border":
        return _pad_white(pixels, options.image_size)
    return pixels


def target_size(size: Size, options: ImageOptions) -> Size | None:
    """(width, height) that an image of `size` is resized to, before it is cropped or padded; None where it is left alone.

    Sides are rounded half to even, as albumentations does for img2dataset. Raises ImageError(TOO_MANY_PIXELS) where the result
    would exceed `max_pixels` (a strip one pixel high, enlarged).
    """
    if options.resize_mode == "no" or (options.resize_only_if_bigger and not _shrinks(size, options)):
        return None
    scale = options.image_size / _decisive_side(size, options)
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if target[0] * target[1] > options.max_pixels:
        raise ImageError(
            Failure.TOO_MANY_PIXELS, f"resized to {target[0]}x{target[1]} pixels, max_pixels is {options.max_pixels}"
        )
    return target


def _decisive_side(size: Size, options: ImageOptions) -> int:
    """The side that becomes `image_size`."""
    return min(size) if options.resize_mode in ("keep_ratio", "center_crop") else max(size)


def _shrinks(size: Size, options: ImageOptions) -> bool:
    return _decisive_side(size, options) > options.image_size


def shrinks_fast(size: Size, options: ImageOptions) -> bool:
    """Whether an image of `size` is made smaller, and `decode: fast` says how."""
    return options.decode == "fast" and options.downscale_interpolation == "area" and _shrinks(size, options)


def _resample(pixels: Pixels, target: Size, options: ImageOptions, size: Size, factor: int) -> Pixels:
    interpolation = options.downscale_interpolation if _shrinks(size, options) else options.upscale_interpolation
    try:
        if shrinks_fast(size, options) and pixels.dtype == np.uint8:
            return shrink(pixels, target, size, factor)
        return cv2.resize(pixels, dsize=target, interpolation=_INTERPOLATION[interpolation])
    except cv2.error as error:
        raise image_error(Failure.DECODE_ERROR, error) from error


def size_of(pixels: Pixels) -> Size:
    """(width, height)."""
    return pixels.shape[1], pixels.shape[0]


def _center_crop(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _pad_white(pixels: Pixels, side: int) -> Pixels:
    """Centred on a square; of an odd number of pixels, the larger part goes to the bottom and the right."""
    rows, columns = side - pixels.shape[0], side - pixels.shape[1]
    top, left = rows // 2, columns // 2
    return cv2.copyMakeBorder(pixels, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=_WHITE)
