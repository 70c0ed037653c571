import duckdb
import numpy as np
import pyarrow as pa

from pairsift.pipeline.cut.segment import places, readable


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
    ]:
        found, lacks = places(held, there, 5)
        assert found is not None
        assert found.to_pylist() == expected
        assert lacks.tolist() == [place is None for place in expected]
