"""Bytes to pixels and back, by OpenCV; and what is wrong with an image where that cannot be.

Pixels are `uint8` or `uint16` arrays of shape (height, width) or (height, width, 3), channels in OpenCV's order (BGR).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pairsift.stages.fates import Failure
from pairsift.stages.pixels.headers import sniff
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.png import decode_png

# Workers are processes and threads of ours already; OpenCV's own pool would only fight them for the cores.
cv2.setNumThreads(1)
# OpenCV logs each damaged file to stderr; here a damaged file is a fate, and is reported as one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = npt.NDArray[Any]

_QUALITY_FLAG: dict[str, int] = {
    "jpg": cv2.IMWRITE_JPEG_QUALITY,
    "png": cv2.IMWRITE_PNG_COMPRESSION,
    "webp": cv2.IMWRITE_WEBP_QUALITY,
}
_BAND_PIXELS = 2**18


class ImageError(Exception):
    """Something is wrong with an image: `failure` is the code of its fate, the message the detail for people."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure


def decode(data: bytes) -> Pixels:
    """Full-size pixels of the first frame: depth and alpha as they are, EXIF orientation not applied (IMREAD_UNCHANGED).

    Shape (height, width), (height, width, 3) or (height, width, 4). Raises ImageError(DECODE_ERROR).
    """
    if sniff(data) == "png":
        pixels = decode_png(data)
        if pixels is not None:
            return pixels
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise image_error(Failure.DECODE_ERROR, error) from error
    if pixels is None:
        raise ImageError(Failure.DECODE_ERROR, "the decoder refused the file")
    return pixels


def on_white(pixels: Pixels) -> Pixels:
    """BGRA (height, width, 4) laid on white: BGR uint8. In float64 and with alpha read as 8 bits, as img2dataset has it."""
    result: Pixels = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, _BAND_PIXELS // pixels.shape[1])  # in bands, since eight bytes per value of a large image are gigabytes
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        alpha = band[:, :, 3, np.newaxis]
        matted = alpha / 255 * band[..., :3] + 255 - alpha
        result[top : top + rows] = np.rint(matted.clip(min=0, max=255))
    return result


def encode(pixels: Pixels, options: ImageOptions) -> bytes:
    """Pixels in `encode_format` at `encode_quality`; 16-bit pixels become 8-bit where the format has no more. Raises
    ImageError(ENCODE_ERROR), as for a JPEG side of more than 65,500 pixels."""
    parameters = [_QUALITY_FLAG[options.encode_format], options.encode_quality]
    try:
        done, buffer = cv2.imencode(f".{options.encode_format}", pixels, parameters)
    except cv2.error as error:
        raise image_error(Failure.ENCODE_ERROR, error) from error
    if not done:
        raise ImageError(Failure.ENCODE_ERROR, f"{pixels.shape[1]}x{pixels.shape[0]} pixels as {options.encode_format}")
    return buffer.tobytes()


def image_error(failure: Failure, error: cv2.error) -> ImageError:
    """OpenCV's complaint as a fate, unless it is about this machine and not about the image."""
    if error.code == cv2.Error.StsNoMem:
        raise MemoryError(error.err) from error
    return ImageError(failure, str(error.err)[:200])
