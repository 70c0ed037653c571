"""Realistic edits of a photo, for measuring what finds an image again. Pixels are BGR, 8 bits a channel; a result is a file."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Edit = Callable[[Pixels], bytes]


def jpg(pixels: Pixels, quality: int = 90) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _webp(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 50])[1])


def _scaled(x: float, y: float) -> Edit:
    kind = cv2.INTER_AREA if x < 1 else cv2.INTER_CUBIC
    return lambda pixels: jpg(cv2.resize(pixels, None, fx=x, fy=y, interpolation=kind))


def _cropped(share: float) -> Edit:
    """So much of each side's length is gone, half of it at each end."""

    def edit(pixels: Pixels) -> bytes:
        top, left = (round(length * share / 2) for length in pixels.shape[:2])
        return jpg(pixels[top : pixels.shape[0] - top, left : pixels.shape[1] - left])

    return edit


def _crop_from_one_side(pixels: Pixels) -> bytes:
    return jpg(pixels[:, round(pixels.shape[1] * 0.05) :])


def _bordered(share: float, level: int, *, all_round: bool = True) -> Edit:
    """A border of a share of the shorter side; else bars above and below, as films have them."""

    def edit(pixels: Pixels) -> bytes:
        width = round(min(pixels.shape[:2]) * share)
        side = width if all_round else 0
        return jpg(cv2.copyMakeBorder(pixels, width, width, side, side, cv2.BORDER_CONSTANT, value=(level,) * 3))

    return edit


def _grey(pixels: Pixels) -> bytes:
    return jpg(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))


def _levels(gain: float, shift: float) -> Edit:
    return lambda pixels: jpg(cv2.convertScaleAbs(pixels.astype(np.float32).clip(0) * gain + shift))


def _gamma(pixels: Pixels) -> bytes:
    return jpg(((pixels / 255) ** 0.7 * 255).round().astype(np.uint8))


def _saturated(pixels: Pixels) -> bytes:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV).astype(np.float32)
    hsv[..., 1] = (hsv[..., 1] * 1.5).clip(0, 255)
    return jpg(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR))


def _watermarked(pixels: Pixels) -> bytes:
    """A name across the lower right corner, half transparent."""
    marked = pixels.copy()
    height, width = pixels.shape[:2]
    at = (width // 3, height - height // 12)
    cv2.putText(marked, "(c) example.com", at, cv2.FONT_HERSHEY_SIMPLEX, width / 450, (255, 255, 255), 2, cv2.LINE_AA)
    return jpg(cv2.addWeighted(marked, 0.6, pixels, 0.4, 0))


def _stock_marked(pixels: Pixels) -> bytes:
    """The name all over, as agencies put it on previews."""
    marked = pixels.copy()
    height, width = pixels.shape[:2]
    for row in range(4):
        at = (width // 8 * (row % 2), height * (row + 1) // 5)
        cv2.putText(marked, "STOCK PREVIEW", at, cv2.FONT_HERSHEY_SIMPLEX, width / 350, (255, 255, 255), 2, cv2.LINE_AA)
    return jpg(cv2.addWeighted(marked, 0.5, pixels, 0.5, 0))


def _blurred(pixels: Pixels) -> bytes:
    return jpg(cv2.GaussianBlur(pixels, (0, 0), 1.5))


def _noisy(pixels: Pixels) -> bytes:
    noise = np.random.default_rng(0).normal(0, 8, pixels.shape)
    return jpg((pixels + noise).clip(0, 255).astype(np.uint8))


def _rotated(degrees: float) -> Edit:
    def edit(pixels: Pixels) -> bytes:
        height, width = pixels.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
        return jpg(cv2.warpAffine(pixels, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))

    return edit


def _mirrored(pixels: Pixels) -> bytes:
    return jpg(pixels[:, ::-1])


EDITS: dict[str, Edit] = {
    "JPEG, quality 75": lambda pixels: jpg(pixels, 75),
    "JPEG, quality 30": lambda pixels: jpg(pixels, 30),
    "WebP, quality 50": _webp,
    "half the size": _scaled(0.5, 0.5),
    "a third of the size": _scaled(1 / 3, 1 / 3),
    "1.5 times the size": _scaled(1.5, 1.5),
    "10 % wider": _scaled(1.1, 1),
    "blur, sigma 1.5 px": _blurred,
    "noise, sigma 8": _noisy,
    "grey": _grey,
    "brighter by 30": _levels(1, 30),
    "contrast up by 30 %": _levels(1.3, -38),
    "gamma 0.7": _gamma,
    "saturation up by 50 %": _saturated,
    "watermark in a corner": _watermarked,
    "agency's marks all over": _stock_marked,
    "2 % cropped": _cropped(0.02),
    "5 % cropped": _cropped(0.05),
    "10 % cropped": _cropped(0.1),
    "5 % cropped at the left": _crop_from_one_side,
    "white border, 2 %": _bordered(0.02, 255),
    "black border, 5 %": _bordered(0.05, 0),
    "bars above and below, 10 %": _bordered(0.1, 0, all_round=False),
    "rotated by 1 degree": _rotated(1),
    "rotated by 5 degrees": _rotated(5),
    "mirrored": _mirrored,
}
