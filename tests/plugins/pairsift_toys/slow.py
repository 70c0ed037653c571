"""Takes its time, as a model or a far server does."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform


class Slow(Stage):
    """Length of the caption, some seconds later."""

    seconds: Annotated[float, OPERATIONAL] = Field(0.1, description="per batch")
    blocking: Annotated[bool, OPERATIONAL] = Field(False, description="as a library that does not return")

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("letters", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._blocked if self.blocking else self._later

    def _blocked(self, batch: pa.Table) -> pa.Table:
        time.sleep(self.seconds)
        return _counted(batch)

    async def _later(self, batch: pa.Table) -> pa.Table:
        await asyncio.sleep(self.seconds)
        return _counted(batch)


def _counted(batch: pa.Table) -> pa.Table:
    return pa.table({"letters": pa.array([len(caption) for caption in batch["caption"].to_pylist()], pa.int32())})
