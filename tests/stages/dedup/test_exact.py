from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pairsift.stages.dedup.exact import Exact
from pairsift.stages.fates import Status


def _run(selector: Exact, rows: pa.Table) -> dict[int, int]:
    """Ordinal of each row that goes, to its keeper's."""
    connection = duckdb.connect()
    # A table of DuckDB's own, as in the cut: DuckDB 1.5 pushes the join's keys into a scan of Arrow data as IN (…), where
    # Arrow tells 0.0 from -0.0 and NaN from NaN.
    connection.register("given", rows)
    connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    found = connection.execute(selector.reduce())
    names_and_types = [(column[0], str(column[1])) for column in found.description]
    assert names_and_types == [("ordinal", "BIGINT"), ("duplicate_of", "BIGINT"), ("score", "DOUBLE")]
    gone = found.fetchall()
    assert len({ordinal for ordinal, _, _ in gone}) == len(gone)
    assert all(score is None for _, _, score in gone)
    return {ordinal: keeper for ordinal, keeper, _ in gone}


def _partitioned(selector: Exact, rows: pa.Table, partitions: int) -> dict[int, int]:
    union: dict[int, int] = {}
    connection = duckdb.connect()
    connection.register("everything", rows)
    for partition in range(partitions):
        query = f"SELECT * FROM everything WHERE hash({', '.join(selector.key())}) % {partitions} = {partition}"
        union |= _run(selector, connection.sql(query).to_arrow_table())
    return union


def _rows(**columns: list[object]) -> pa.Table:
    count = len(next(iter(columns.values())))
    fixed = {"ordinal": pa.array(range(count), pa.int64()), "generation": pa.array([0] * count, pa.int64())}
    return pa.table({**fixed, **{name: pa.array(values) for name, values in columns.items()}})


def test_the_lowest_ordinal_is_the_keeper_whatever_the_order_of_rows() -> None:
    rows = _rows(url=["a", "b", "a", "a", "c", "b"])
    assert _run(Exact(by=["url"]), rows.take([5, 3, 1, 0, 4, 2])) == {2: 0, 3: 0, 5: 1}


def test_a_null_in_any_column_is_nobodys_duplicate() -> None:
    rows = _rows(url=["a", "a", None, None, "a", "a"], caption=["x", None, "x", "x", "x", None])
    assert _run(Exact(by=["url", "caption"]), rows) == {4: 0}
    assert _run(Exact(by=["url"]), rows) == {1: 0, 4: 0, 5: 0}


def test_all_columns_must_agree() -> None:
    rows = _rows(url=["a", "a", "b", "a"], width=[1, 2, 1, 1])
    assert _run(Exact(by=["url", "width"]), rows) == {3: 0}


def test_case_space_and_unicode_forms_are_different_text() -> None:
    rows = _rows(url=["a", "A", "a ", "\u00e9", "e\u0301", ""])
    assert _run(Exact(by=["url"]), rows) == {}


def test_an_odd_column_name_is_quoted() -> None:
    rows = _rows(**{'my "col"; x': ["a", "a"]})
    assert _run(Exact(by=['my "col"; x']), rows) == {1: 0}


@pytest.mark.parametrize("partitions", [1, 2, 7])
@pytest.mark.parametrize("by", [["url"], ["url", "score_x"], ["score_x"]])
def test_partitions_by_the_key_give_the_same_union(by: list[str], partitions: int) -> None:
    count = 500
    urls = [None if i % 11 == 0 else f"u{(i * 7919) % 97}" for i in range(count)]
    scores = [None if i % 13 == 0 else [0.0, -0.0, float("nan"), 0.5][(i * 31) % 4] for i in range(count)]
    rows = _rows(url=urls, score_x=scores)
    selector = Exact(by=by)
    whole = _run(selector, rows)
    assert whole
    assert _partitioned(selector, rows, partitions) == whole


def test_no_rows() -> None:
    rows = pa.table({"ordinal": pa.array([], pa.int64()), "url": pa.array([], pa.string())})
    assert _run(Exact(by=["url"]), rows) == {}


def test_what_it_says_of_itself() -> None:
    selector = Exact(use="dedup.exact", by=["url", "caption", "url"])
    assert selector.reads() == ("url", "caption")
    assert selector.key() == ('"url"', '"caption"')
    assert selector.label() == "duplicate url, caption"
    assert Exact(by=["url"], name="same link").label() == "same link"
    assert selector.status is Status.DUPLICATE
    assert selector.science() == {"by": ["url", "caption", "url"], "name": None}


def test_at_least_one_column() -> None:
    with pytest.raises(ValidationError, match="by"):
        Exact(by=[])


def test_it_runs_out_of_core(tmp_path: Path) -> None:
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "60MB", "temp_directory": str(tmp_path)})
    connection.execute(
        "CREATE TABLE rows AS SELECT i AS ordinal, 0 AS generation, 'https://example.org/' || (i % 290000) AS url "
        "FROM range(300000) AS t(i)"
    )
    gone = connection.execute(f"SELECT count(*), min(ordinal), max(ordinal - duplicate_of) FROM ({Exact(by=['url']).reduce()})")
    assert gone.fetchall() == [(10000, 290000, 290000)]
