"""What DuckDB says of the Parquet that it is asked about."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.ledger.parquet import parquet_options

SCHEMA = pa.schema(
    [pa.field("key", pa.string(), nullable=False), ("text", pa.string()), ("few", pa.string()), ("n", pa.int32())]
)


@pytest.mark.parametrize("values", [["a", "a", None], ["a", "b", None], [None, None, None], ["a", "a", "a"]])
def test_duckdb_finds_the_nulls_and_nothing_else(values: list[str | None], tmp_path: Path) -> None:
    numbers = [None if value is None else ord(value) for value in values]
    columns: list[list[Any]] = [["0", "1", "2"], values, values, numbers]
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table(columns, schema=SCHEMA), path, **parquet_options(SCHEMA, ["few"]))
    for name in SCHEMA.names[1:]:
        found = duckdb.sql(f"SELECT key FROM '{path}' WHERE {name} IS NULL ORDER BY key").fetchall()
        assert [int(key) for (key,) in found] == [row for row, value in enumerate(values) if value is None], name


def test_statistics_are_there_for_what_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table([["0"], ["a"], ["b"], [1]], schema=SCHEMA), path, **parquet_options(SCHEMA, ["few"]))
    group = pq.read_metadata(path).row_group(0)
    assert [group.column(n).is_stats_set for n in range(4)] == [True, False, True, True]
