"""Pixels as models take them, of files that nobody has looked at yet: those of other people's datasets."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.images import check_pixels, inspect
from pairsift.stages.pixels.options import MAX_PIXELS

_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def decode_rgb(encoded: bytes) -> NDArray[np.uint8] | None:
    """RGB (height, width, 3), or None for what is no image that can be read whole, or would cost too much: see `inspect`.

    EXIF orientation is not applied, alpha is dropped.
    """
    try:
        check_pixels(inspect(encoded)[1], MAX_PIXELS)
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS)
    except (ImageError, cv2.error):
        return None
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
