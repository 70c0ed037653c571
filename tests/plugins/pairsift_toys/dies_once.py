"""Kills its worker, once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform


class DiesOnce(Stage):
    """Whether the caption has an even length; where `mark` is not there, it is made, and the process killed."""

    mark: Annotated[str, OPERATIONAL]

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("even", pa.bool_())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._even

    def _even(self, batch: pa.Table) -> pa.Table:
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"even": pa.array([len(caption) % 2 == 0 for caption in batch["caption"].to_pylist()])})
