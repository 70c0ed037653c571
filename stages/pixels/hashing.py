"""Perceptual hashes of images."""

import cv2
import imagehash
import numpy as np
from PIL import Image

from pairsift.stages.pixels.coding import Pixels, decode, on_white
from pairsift.stages.pixels.images import check_pixels, inspect

LEAST_CONTRAST = 2.0  # grey levels: below it, an image is flat
LIBRARY = f"imagehash {imagehash.__version__}"

_CONTRAST_SIDE = 32  # pixels a side of the small grey picture whose contrast is measured
_HASH_SIDES = {64: 8, 256: 16}


def phash(data: bytes, bits: int, least_contrast: float, max_pixels: int) -> tuple[str | None, float]:
    """Hex digits of imagehash's pHash of 64 or 256 bits, None for a flat image; and the image's contrast, the standard
    deviation of its grey levels at 32 x 32 pixels.

    Raises:
        ImageError: TOO_MANY_PIXELS; see `inspect` and `decode`.
    """
    check_pixels(inspect(data)[1], max_pixels)
    grey = _grey(decode(data))
    contrast = float(np.std(cv2.resize(grey, (_CONTRAST_SIDE, _CONTRAST_SIDE), interpolation=cv2.INTER_AREA)))
    if contrast < least_contrast:
        return None, contrast
    return str(imagehash.phash(Image.fromarray(grey), hash_size=_HASH_SIDES[bits])), contrast


def _grey(pixels: Pixels) -> Pixels:
    """(height, width), 8 bits; what is transparent lies on white."""
    if pixels.dtype != np.uint8:  # 16 bits: the upper eight
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.clip(0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(on_white(pixels) if pixels.shape[2] == 4 else pixels, cv2.COLOR_BGR2GRAY)
