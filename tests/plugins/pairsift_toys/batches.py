"""Tells how the rows were cut into sub-batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pyarrow as pa

from pairsift.stages.base import Columns, Stage, Transform


class Batches(Stage):
    """The first ordinal of the sub-batch that a row came in, and the bytes of images in it."""

    batch_rows: ClassVar[int] = 3

    def reads(self) -> Columns:
        return ("image",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("batch_first", pa.int64()), pa.field("batch_bytes", pa.int64())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._describe

    def _describe(self, batch: pa.Table) -> pa.Table:
        images = batch["image"].to_pylist()
        assert all(image[:2] == b"\xff\xd8" for image in images)
        total = sum(map(len, images))
        return pa.table({"batch_first": [batch["ordinal"][0].as_py()] * len(batch), "batch_bytes": [total] * len(batch)})
