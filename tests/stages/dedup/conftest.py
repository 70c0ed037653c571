"""Finders, played on tables: in one process, and dealt out."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import Finder, Scratch
from pairsift.stages.exchange import Desk, Exchange, Tasks
from pairsift.stages.storage import Folder

Find = Callable[..., dict[int, int]]


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., pa.Table]:
    """What a finder answers for columns, in batches of 7 rows; ordinals count from 10, `generation` is 0 unless given."""

    def find(finder: Finder, order: Any = None, memory: int = 1 << 24, **columns: Any) -> pa.Table:
        count = len(next(iter(columns.values())))
        fixed = {"ordinal": np.arange(10, 10 + count), "generation": np.zeros(count, np.int64)}
        rows = pa.table(
            {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
        )
        rows = pa.table({**{n: pa.array(v) for n, v in fixed.items() if n not in columns}, **{n: rows[n] for n in columns}})
        if order is not None:
            rows = rows.take(pa.array(order))
        scratch = Scratch(str(tmp_path), memory)
        gone = finder.find(pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(7)), scratch)
        assert gone.schema.types == [pa.int64(), pa.int64(), pa.float64()], gone.schema
        assert gone.schema.names == ["ordinal", "duplicate_of", "score"]
        ordinals = gone["ordinal"].to_pylist()
        assert len(set(ordinals)) == len(ordinals)
        assert not set(gone["duplicate_of"].to_pylist()) & set(ordinals), "a keeper is a row that stays"
        return gone.sort_by("ordinal")

    return find


class Load:
    """Parts are slices of one table."""

    def __init__(self, table: pa.Table, size: int) -> None:
        self.table, self.size = table, size

    def __call__(self, part: int) -> Iterator[pa.Table]:
        rows = self.table.slice(part * self.size, self.size)
        yield rows.slice(0, self.size // 2)
        yield rows.slice(self.size // 2)


@pytest.fixture
def dealt(tmp_path: Path) -> Callable[..., pa.Table]:
    """What a finder's tasks find, by ordinal; everything that goes to a task, or comes from one, is pickled."""

    def find(finder: Finder, rows: pa.Table, partitions: int = 3, part_rows: int = 40) -> pa.Table:
        place = Exchange(Folder(str(tmp_path)), "dealt/rows")

        def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            for item in reversed(list(items)):  # in any order
                yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item)))))

        parts = range(-(-len(rows) // part_rows))
        tasks = Tasks(Desk(Load(rows, part_rows), place, 1 << 26), parts, partitions, mapped)
        files = [file for file in finder.deal(tasks) if file]
        stretches = range(max((file.end for file in files), default=0))
        tables = [table for stretch in stretches for table in place.read(files, stretch)]
        empty = pa.schema({"ordinal": pa.int64(), "duplicate_of": pa.int64(), "score": pa.float64()}).empty_table()
        assert not list((tmp_path / "dealt").glob("task-*")) if tables else True
        return pa.concat_tables([empty, *tables]).sort_by("ordinal")

    return find
