"""Selectors, played on tables."""

from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pairsift.stages.base import Selector

Gone = Callable[..., dict[int, float | None]]


@pytest.fixture
def gone() -> Gone:
    """Plays a selector on columns: ordinal → score of the rows that go. `generation` is 0 where it is not given."""

    def play(selector: Selector, **columns: Any) -> dict[int, float | None]:
        rows = {name: pa.array(values) for name, values in columns.items()}
        count = len(next(iter(rows.values())))
        rows.setdefault("generation", pa.array([0] * count, pa.int64()))
        assert set(rows) == {"generation", *selector.reads()}
        selector.check()
        table = pa.table({"ordinal": pa.array(range(count), pa.int64()), **rows})
        with duckdb.connect() as con:
            con.register("given", table)
            con.execute("CREATE TABLE rows AS SELECT * FROM given")
            found = con.execute(f"SELECT ordinal, duplicate_of, score FROM ({selector.reduce()})").fetchall()
        assert all(keeper is None for _, keeper, _ in found)
        assert len({ordinal for ordinal, _, _ in found}) == len(found)
        return {ordinal: score for ordinal, _, score in found}

    return play
