from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pairsift.pipeline.cut.segment import asked, places, readable, together


def test_a_selector_sees_float16_as_numbers() -> None:
    """DuckDB cannot scan Arrow's."""
    vectors = [[1.0, -0.5], None, [0.0, 2.0]]
    table = pa.table(
        {
            "ordinal": [0, 1, 2],
            "half": pa.array([0.5, None, 2.0], pa.float16()),
            "fixed": pa.array(vectors, pa.list_(pa.float16(), 2)),
            "listed": pa.array(vectors, pa.list_(pa.float16())),
        }
    )
    with duckdb.connect() as con:
        con.register("found", readable(table))
        halves = [0.5, None, 2.0]
        assert con.execute("FROM found").fetchall() == [(n, halves[n], v, v) for n, v in enumerate(vectors)]


def test_places_of_rows_in_a_layer_that_lacks_some() -> None:
    everything, alive = np.arange(5), np.array([0, 2, 4])
    assert places(everything, everything, 5)[0] is None
    for held, there, expected in [
        (everything, alive, [0, 2, 4]),
        (np.array([2, 3]), alive, [None, 0, None]),
        (np.array([0, 1, 4]), everything, [0, 1, None, None, 2]),
        (everything[:0], alive, [None, None, None]),
        (np.array([1, 2, 3, 3, 4]), np.arange(1, 5), [0, 1, 2, 4]),  # as many as there are places, and one is there twice
    ]:
        found, lacks = places(held, there, 5)
        assert found is not None
        assert found.to_pylist() == expected
        assert lacks.tolist() == [place is None for place in expected]


def test_small_tables_are_put_together_in_order() -> None:
    tables = [pa.table({"ordinal": pa.array(range(n, n + 3))}) for n in range(0, 15, 3)]
    found = list(together([*tables, tables[0].slice(0, 0)], 6 * 8))  # bytes
    assert [len(table) for table in found] == [6, 6, 3]
    assert pa.concat_tables(found) == pa.concat_tables(tables)
    assert [len(table) for table in together([tables[0].slice(0, 0)], 48)] == [0], "a table without rows has columns"
    assert list(together([], 48)) == []


def test_one_query_is_asked_of_many_tables() -> None:
    tables = [pa.table({"ordinal": pa.array(range(n, n + 1000)), "x": [0.5, None] * 500}) for n in range(0, 200_000, 1000)]
    found = list(asked("SELECT ordinal, x IS NULL AS lacks FROM alive", tables))
    assert max(map(len, found)) < 100_000, "the answer comes in parts"
    told = pa.Table.from_batches(found).to_pydict()
    assert told["ordinal"] == list(range(200_000))
    assert told["lacks"] == [False, True] * 100_000
    assert list(asked("SELECT no column", [])) == []


def test_what_reading_raises_is_raised() -> None:
    class DamagedError(OSError):
        pass

    def tables() -> Iterator[pa.Table]:
        yield pa.table({"x": [1]})
        raise DamagedError("a file")

    with pytest.raises(DamagedError, match=r"^a file$"):
        list(asked("SELECT x FROM alive", tables()))
    with pytest.raises(duckdb.ConversionException):
        list(asked("SELECT CAST(x AS INT) FROM alive", [pa.table({"x": ["no number"]})]))
