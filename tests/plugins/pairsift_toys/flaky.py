"""Fails for some captions while a file says so, as servers do that are down for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform


class Flaky(Stage):
    """Length of the caption; a timeout where the caption stands in the file `down`, a 404 where it holds "gone"."""

    down: Annotated[str, OPERATIONAL] = Field(description="path of a file of captions, one a line")

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("letters", pa.int32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        down = set(Path(self.down).read_text().splitlines())

        def letters(batch: pa.Table) -> pa.Table:
            captions = batch["caption"].to_pylist()
            failures = ["timeout" if text in down else "http_404" if "gone" in text else None for text in captions]
            counts = [None if failure else len(text) for text, failure in zip(captions, failures, strict=True)]
            return pa.table({"letters": pa.array(counts, pa.int32()), "failure": pa.array(failures, pa.string())})

        yield letters
