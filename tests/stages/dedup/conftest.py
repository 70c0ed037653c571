"""Finders, played on tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import Finder, Scratch

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
