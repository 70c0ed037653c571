"""Breaks its contract in the way it is told to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pairsift.stages.base import Columns, Stage, Transform


class Broken(Stage):
    """Length of the caption, but for what is wrong with the answer."""

    how: Literal["not", "short", "long", "type", "missing", "extra", "code", "raise", "open"] = Field(
        "not", description="what goes wrong"
    )

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("letters", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        if self.how == "open":
            raise ZeroDivisionError("the model does not load")
        yield self._letters

    def _letters(self, batch: pa.Table) -> Any:
        letters = pa.array([len(caption or "") for caption in batch["caption"].to_pylist()], pa.int32())
        if self.how == "raise":
            raise ZeroDivisionError("a fault of the program")
        answers: dict[str, Any] = {
            "not": {"letters": letters},
            "short": {"letters": letters.slice(1)},
            "long": {"letters": pa.concat_arrays([letters, letters])},
            "type": {"letters": letters.cast(pa.int64())},
            "missing": {"failure": pa.nulls(len(letters), pa.string())},
            "extra": {"letters": letters, "caption": batch["caption"]},
            "code": {"letters": letters, "failure": ["no_such_code"] * len(letters)},
        }
        return pa.table(answers[self.how])
