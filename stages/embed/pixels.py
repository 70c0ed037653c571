"""From encoded bytes to the pixels that a checkpoint's image processor would make, and fast: uint8 until the device has them.

The processors of transformers work with Pillow in float32 at about 3 ms an image. Where their settings are the usual ones
(resize, centre crop, rescale, normalise), the same pixels are made here in a fourth of that: torch's antialiased resize is
Pillow's, in SIMD code, and differs from it by a level or two in some of a thousand pixels.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.pixels.rgb import decode_rgb

_MODES = {2: "bilinear", 3: "bicubic"}  # by Pillow's number of the filter
_MOST_LEVELS = 3  # of 255: how far pixels may be from the processor's own
_PROBES = ((300, 200), (90, 130), (256, 256))  # height, width: larger and smaller than what models take


def decode(encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
    """RGB (height, width, 3), or None for what is not an image: see `decode_rgb`."""
    return None if encoded is None else decode_rgb(encoded.to_pybytes())


class Recipe(NamedTuple):
    """What an image processor does, as far as it is the usual. Sizes in pixels; `scale` and `shift` per RGB channel."""

    shortest: int | None  # the shorter side's length, or
    square: tuple[int, int] | None  # height and width, whatever the shape was; both None: no resize
    mode: str
    crop: tuple[int, int] | None  # height and width, from the middle
    scale: tuple[float, float, float]  # pixel * scale + shift is what the network wants
    shift: tuple[float, float, float]

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) to (3, H, W), not yet scaled."""
        planes = self._resize(image)
        return np.ascontiguousarray(planes if self.crop is None else _middle(planes, *self.crop))

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch
        from torch.nn.functional import interpolate

        height, width = image.shape[:2]
        size = self.square or (height, width)
        if self.shortest is not None:
            longer = int(self.shortest * max(height, width) / min(height, width))
            size = (longer, self.shortest) if width <= height else (self.shortest, longer)
        planes = image.transpose(2, 0, 1)
        if size == (height, width):
            return planes
        resized: NDArray[np.uint8] = interpolate(torch.from_numpy(planes)[None], size=size, mode=self.mode, antialias=True)[
            0
        ].numpy()
        return resized


def recipe(processor: Any) -> Recipe | None:
    """The processor's settings; None where pixels made by them are not its own, and it must be asked itself."""
    try:
        found = _read(processor)
        if all(_agree(found, processor, probe) for probe in _probes()):
            return found
    except (AttributeError, KeyError, TypeError, ValueError):  # settings of another kind
        pass
    return None


def own_pixels(processor: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, H, W) as the processor itself makes them."""
    # The layout is said, never guessed: an image 3 pixels high would be taken for channels.
    prepared = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    return np.asarray(prepared, dtype=np.float32).reshape(np.shape(prepared)[-3:])  # a video processor's has one frame


def _read(processor: Any) -> Recipe:
    shortest = square = crop = None
    if processor.do_resize:
        size = dict(processor.size)
        shortest = size.get("shortest_edge")
        square = None if shortest else (int(size["height"]), int(size["width"]))
    if getattr(processor, "do_center_crop", None):
        crop = (int(processor.crop_size["height"]), int(processor.crop_size["width"]))
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean, std = np.zeros(3), np.ones(3)
    if processor.do_normalize:
        mean, std = np.broadcast_to(processor.image_mean, 3), np.broadcast_to(processor.image_std, 3)
    mode = _MODES[int(processor.resample)] if processor.do_resize else "bilinear"
    return Recipe(shortest, square, mode, crop, _three(factor / std), _three(-(mean + offset) / std))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _middle(planes: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of it; what it lacks is black, half of it (and the odd pixel) above and on the left, as transformers pads."""
    missing_rows, missing_columns = max(0, height - planes.shape[1]), max(0, width - planes.shape[2])
    if missing_rows or missing_columns:
        above, left = -(-missing_rows // 2), -(-missing_columns // 2)
        planes = np.pad(planes, ((0, 0), (above, missing_rows - above), (left, missing_columns - left)))
    top, left = (planes.shape[1] - height) // 2, (planes.shape[2] - width) // 2
    return planes[:, top : top + height, left : left + width]


def _probes() -> list[NDArray[np.uint8]]:
    """Soft blotches of colour, the same every time."""
    noise = np.random.default_rng(0).integers(0, 256, size=(12, 12, 3), dtype=np.uint8)
    made = [cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) for height, width in _PROBES]
    return [np.asarray(image, dtype=np.uint8) for image in made]


def _agree(found: Recipe, processor: Any, probe: NDArray[np.uint8]) -> bool:
    scale, shift = (np.array(three, np.float32)[:, None, None] for three in (found.scale, found.shift))
    theirs, ours = own_pixels(processor, probe), found.apply(probe) * scale + shift
    return ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= _MOST_LEVELS * scale).all())
