"""`image.statistics`: size, format and plainness of the stored image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.coding import ImageError, Pixels, decode, on_white
from pairsift.stages.pixels.images import check_pixels, inspect
from pairsift.stages.pixels.options import MAX_PIXELS


class _Statistics(NamedTuple):
    image_bytes: int
    image_type: str
    image_width: int
    image_height: int
    aspect_ratio: float
    sharpness: float | None = None
    entropy: float | None = None
    single_color: float | None = None


class ImageStatistics(Stage):
    """What can be measured of an image without a model, for `filter.where` to judge. Null where there is no image.

    From the header:

    - `image_bytes`: int64, of the stored file. `image_type`: jpg, png, webp, gif, bmp, tiff or avif, by its first bytes.
    - `image_width`, `image_height`: int32, pixels, as they lie in the file. `aspect_ratio`: float32, longer side by shorter
      side, from 1.

    From the pixels, decoded once, on white where they are transparent; left out with `pixels: false`:

    - `sharpness`: float32, 0 to about 130,000: variance of the Laplacian of the grey image, in squared grey levels, low where
      it is blurred (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000). Measured at a longer
      side of `side` pixels, so that sizes can be compared; how an image was made smaller before may still make 30 %.
    - `entropy`: float32, 0 to 8 bits, of the grey levels' frequencies: 0 for one level, about 7 for photographs.
    - `single_color`: float32, 0 to 1, how much of the image its most frequent colour fills, in steps of 32 levels a channel:
      1 for a plain tile, high for logos and for pictures with wide borders.

    An image that cannot be decoded has the failure `image_unreadable`.
    """

    pixels: bool = Field(True, description="false: look at the header only, and decode nothing")
    side: int = Field(
        256, gt=0, description="larger images are brought to this longer side, in pixels, before they are measured"
    )
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="images with more are not decoded, but fail")

    def reads(self) -> Columns:
        return (schema.IMAGE.name,)

    def writes(self) -> pa.Schema:
        fields = [
            pa.field("image_bytes", pa.int64()),
            pa.field("image_type", pa.string()),
            pa.field("image_width", pa.int32()),
            pa.field("image_height", pa.int32()),
            pa.field("aspect_ratio", pa.float32()),
        ]
        if self.pixels:
            fields += [pa.field(name, pa.float32()) for name in ("sharpness", "entropy", "single_color")]
        return pa.schema(fields)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._measure_all

    def _measure_all(self, batch: pa.Table) -> pa.Table:
        found: list[_Statistics | None] = []
        failures: list[tuple[str, str] | None] = []
        for data in batch[schema.IMAGE.name].to_pylist():
            try:
                found.append(None if data is None else self._measure(data))
                failures.append(None)
            except ImageError as error:
                found.append(None)
                failures.append((Failure.IMAGE_UNREADABLE.value, str(error)))
        columns = {field.name: [row and getattr(row, field.name) for row in found] for field in self.writes()}
        columns["failure"] = [row and row[0] for row in failures]
        columns["failure_detail"] = [row and row[1] for row in failures]
        return pa.table(columns, schema=pa.schema([*self.writes(), schema.FAILURE, schema.FAILURE_DETAIL]))

    def _measure(self, data: bytes) -> _Statistics:
        """Raises ImageError."""
        kind, (width, height) = inspect(data)
        header = _Statistics(len(data), kind, width, height, max(width, height) / min(width, height))
        if not self.pixels:
            return header
        check_pixels((width, height), self.max_pixels)
        small = _shrunk(_three_channels(decode(data)), self.side)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        sharpness = float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0] ** 2)
        return header._replace(sharpness=sharpness, entropy=_entropy(grey), single_color=_single_color(small))


def _three_channels(pixels: Pixels) -> Pixels:
    """BGR, 8 bits a channel; what is transparent lies on white."""
    if pixels.dtype != np.uint8:  # 16 bits: the upper eight
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.clip(0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return on_white(pixels) if pixels.shape[2] == 4 else pixels


def _shrunk(pixels: Pixels, side: int) -> Pixels:
    """The longer side at most `side`. By full decoding and plain means: sharpness depends on how an image was made smaller."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _entropy(grey: Pixels) -> float:
    counts: Any = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    shares = counts[counts > 0] / grey.size
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # not -0.0


def _single_color(pixels: Pixels) -> float:
    counts = cv2.calcHist([pixels], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
    return float(counts.max() / (pixels.shape[0] * pixels.shape[1]))
