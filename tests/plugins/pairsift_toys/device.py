"""Runs on a device that gets lost, as GPUs do: after that, the process can do nothing with it any more."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform

SAID = "CUDA error: unspecified launch failure"
_ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call."


class Device(Stage):
    """Length of the caption; the device is lost with the first `losses` sub-batches, and with each that holds "cursed".

    With `gone`, it is not there any more when a second process opens it.
    """

    mark: Annotated[str, OPERATIONAL]
    losses: Annotated[int, OPERATIONAL] = 1
    gone: Annotated[bool, OPERATIONAL] = False

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("letters", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        lost = self.gone and self._count > 0
        if lost:
            raise RuntimeError(SAID + _ADVICE)

        def letters(batch: pa.Table) -> pa.Table:
            nonlocal lost
            captions = batch["caption"].to_pylist()
            if not lost and (self._count < self.losses or "cursed" in captions):
                lost = True
                with Path(self.mark).open("a") as file:
                    file.write(".")
            if lost:
                raise RuntimeError(SAID + _ADVICE)
            return pa.table({"letters": pa.array([len(caption) for caption in captions], pa.int32())})

        yield letters

    @property
    def _count(self) -> int:
        return len(Path(self.mark).read_text()) if Path(self.mark).exists() else 0
