"""Vectors of images without a model."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pyarrow as pa

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform


class Grey(Stage):
    """8 x 8 grey levels, less their mean."""

    def reads(self) -> Columns:
        return ("image",)

    def writes(self) -> pa.Schema:
        return pa.schema([schema.embedding("image_embedding", 64)])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._vectors

    def _vectors(self, batch: pa.Table) -> pa.Table:
        images = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in batch["image"].to_pylist())
        small = np.stack([cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).ravel() for pixels in images]).astype(float)
        small -= small.mean(axis=1, keepdims=True)
        unit = small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
        return pa.table([pa.FixedSizeListArray.from_arrays(pa.array(unit.astype(np.float16).ravel()), 64)], ["image_embedding"])
