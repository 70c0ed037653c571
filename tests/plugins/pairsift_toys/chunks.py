"""A reader whose tables come in whatever lengths its files say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Reader, Source


class Chunks(Reader):
    """Files of JSON: a list of tables, each a list of captions. A null is a row that cannot be read."""

    files: Annotated[list[str], OPERATIONAL] = Field(description="paths of the files")

    def sources(self) -> list[Source]:
        return [Source(uri=file, size=Path(file).stat().st_size) for file in self.files]

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return pa.schema([schema.CAPTION])

    def read(self, source: Source) -> Iterator[pa.Table]:
        for texts in json.loads(Path(source.uri).read_text()):
            failures = ["unreadable_row" if text is None else None for text in texts]
            details = [None if failure is None else f"{Path(source.uri).name}: no caption" for failure in failures]
            columns = {"caption": texts, "failure": failures, "failure_detail": details}
            yield pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
