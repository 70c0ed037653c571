"""Counts words, and notes how many rows it was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform


class Words(Stage):
    """Words of the caption."""

    log: Annotated[str, OPERATIONAL]

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("words", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._count

    def _count(self, batch: pa.Table) -> pa.Table:
        with open(self.log, "a") as log:
            log.writelines(f"{ordinal}\n" for ordinal in batch["ordinal"].to_pylist())
        return pa.table({"words": pc.list_value_length(pc.utf8_split_whitespace(batch["caption"]))})
