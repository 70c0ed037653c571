"""Dies of some captions, as a native library may die of some images."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pairsift.stages.base import Columns, Stage, Transform


class Bomb(Stage):
    """Length of the caption; the process exits at the word "bomb", and worse at "segfault" and "memory"."""

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("letters", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._letters

    def _letters(self, batch: pa.Table) -> pa.Table:
        captions = batch["caption"].to_pylist()
        if any("bomb" in caption for caption in captions):
            os._exit(7)
        if any("segfault" in caption for caption in captions):
            ctypes.string_at(0)
        if any("memory" in caption for caption in captions):
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where there is none left
        return pa.table({"letters": pa.array([len(caption) for caption in captions], pa.int32())})
