"""Answers later: a transform that is async, with rows that fail, rows that raise, and rows that kill."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pairsift.stages.base import Columns, Stage, Transform


class Later(Stage):
    """Capitals of the caption; "fail" is a failure of the row, "raise" an exception, "kill" the end of the process."""

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("loud", pa.string())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        async def transform(batch: pa.Table) -> pa.Table:
            await asyncio.sleep(0.001)
            captions = batch["caption"].to_pylist()
            if "raise" in captions:
                raise ZeroDivisionError("a fault of the program")
            if "kill" in captions:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(1, b"libraries print\n")
            # Types are left to Arrow: `failure` is of type null where no row of the batch fails.
            failures = ["encode_error" if caption == "fail" else None for caption in captions]
            loud = pa.array([None if caption is None else caption.upper() for caption in captions], pa.string())
            return pa.table({"loud": loud, "failure": failures})

        yield transform
