import threading
import time

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages import sql
from pairsift.stages.base import ConfigError

SCHEMA = pa.schema(
    [
        ("a", pa.int64()),
        ("b", pa.float32()),
        ("s", pa.struct([("a", pa.struct([("b", pa.int64())]))])),
        ("l", pa.list_(pa.int64())),
        ("my col", pa.float64()),
        ("caption", pa.string()),
        ("d", pa.date32()),
        ("embedding", pa.list_(pa.float16(), 2)),
    ]
)


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        ("true", ()),
        ("a > 1 -- a comment", ("a",)),
        ('"my col" >= 0.28', ("my col",)),
        ("s.a.b > 1", ("s",)),
        ("s['a'] IS NOT NULL", ("s",)),
        ("b > 1 AND a > 1 OR b < 0", ("b", "a")),
        ("least(a, b) >= 200", ("a", "b")),
        ("CASE WHEN a > 1 THEN b > 2 ELSE caption IS NULL END", ("a", "b", "caption")),
        ("a IN (1, b)", ("a", "b")),
        ("a BETWEEN 1 AND b", ("a", "b")),
        ("caption NOT LIKE '%x%'", ("caption",)),
        ("caption::INT > 3", ("caption",)),
        ("len(list_filter(l, lambda x: x > a)) > 0", ("l", "a")),
        ("len([x + 1 FOR x IN l IF x > 2]) > 2", ("l",)),
        ("extract(year FROM d) > 2000 AND position('a' IN caption) > 1", ("d", "caption")),
        ("{'x': a}.x > 1 AND MAP {'x': b}['x'] > 1", ("a", "b")),
        ("list_reduce(l, lambda x, y: x + y) > b", ("l", "b")),
        ("split_part(caption, ' ', 1) = 'a'", ("caption",)),
        ("list_avg(l) > 1", ("l",)),
        ("regexp_matches(caption, '^[a-z]+$')", ("caption",)),
        ("hash(caption) % 10 < 3", ("caption",)),
        ("caption = 'random() FROM x; SELECT now()'", ("caption",)),
        ("l[1] > 2 AND d > DATE '2020-01-01'", ("l", "d")),
    ],
)
def test_columns_of(expression: str, columns: tuple[str, ...]) -> None:
    assert sql.columns_of(expression) == columns
    assert sql.typecheck(expression, SCHEMA) == "BOOLEAN"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "not valid SQL"),
        ("a >", "not valid SQL"),
        ("(a > 1", "not valid SQL"),
        ("a) FROM (SELECT 1", "not valid SQL"),
        ("a; SELECT 2", "without ';'"),
        ("a, b", "one expression"),
        ("a AS b", "one expression"),
        ("a WHERE b", "one expression"),
        ("a > 1 LIMIT 0", "one expression"),
        ("a > 1 FROM rows", "one expression"),
        ("a > 1 UNION SELECT true", "one expression"),
        ("*", "one row"),
        ("COLUMNS(*) > 1", "one row"),
        ("#1 > 1", "one row"),
        ("$1 > a", "parameter"),
        ("a IN (SELECT 1)", "subquery"),
        ("EXISTS (SELECT 1)", "subquery"),
        ("count(*) > 1", "more than one row"),
        ("sum(a) > 1", "more than one row"),
        ("sum(a) OVER () > 1", "window"),
        ("row_number() OVER () > 1", "window"),
        ("unnest(l) > 1", "more than one row"),
        ("random() > 0.5", r"random\(\)"),
        ("len(list_filter(l, lambda x: x > random())) > 0", r"random\(\)"),
        ("uuid() = caption", r"uuid\(\)"),
        ("now() > d", "now"),
        ("today() > d", "today"),
        ("current_date > d", "current_date"),
        ("CURRENT_TIMESTAMP > d", "CURRENT_TIMESTAMP"),
        ("ago(INTERVAL 1 DAY) > d", "ago"),
        ("age(d) > INTERVAL 1 DAY", "age"),
        ("nextval('s') > 1", "nextval"),
        ("current_setting('threads') = 1", "current_setting"),
        ("getvariable('x') = 1", "getvariable"),
        ("vector_type(a) = 'x'", "vector_type"),
        ("main.random() > 0.5", r"random\(\)"),
        ("getenv('HOME') = 'x'", "getenv"),
        ("read_text('/etc/passwd') = 'x'", "read_text"),
        ("version() = 'x'", "version"),
        ("error('x')", "error"),
        ("lenght(caption) > 1", "did you mean 'length'"),
        ("l.list_sum() > 1", r"write list_sum\(…\)"),
    ],
)
def test_what_is_not_one_pure_expression_is_refused_in_one_line(expression: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        sql.columns_of(expression)
    assert "\n" not in str(error.value)


def test_typecheck_tells_the_type() -> None:
    assert sql.typecheck("a + b", SCHEMA) == "FLOAT"
    assert sql.typecheck("length(caption)", SCHEMA) == "BIGINT"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("capton = 'x'", "did you mean 'caption'.*columns: a, b, s, l, my col, caption, d, embedding"),
        ("CAPTION = 'x'", "did you mean 'caption'"),
        ("caption + 1 > 2", "No function matches"),
        ("embedding IS NULL", "Unsupported"),
        ("s.nothing > 1", "nothing"),
    ],
)
def test_typecheck_refuses_in_one_line(expression: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        sql.typecheck(expression, SCHEMA)
    assert "\n" not in str(error.value)


def test_columns_that_differ_only_in_case_are_refused_since_sql_would_mix_them_up() -> None:
    schema = pa.schema([("url", pa.string()), ("URL", pa.string())])
    assert sql.typecheck("URL = 'x'", schema) == "BOOLEAN"
    with pytest.raises(ConfigError, match="case"):
        sql.typecheck("URL = url", schema)


def test_a_predicate_must_be_boolean() -> None:
    sql.check_predicate("a > 1", SCHEMA)
    with pytest.raises(ConfigError, match="gives BIGINT"):
        sql.check_predicate("a", SCHEMA)


@pytest.mark.parametrize(
    ("expression", "side"),
    [
        ("a >= 0.28", "a"),
        ("0.28 <= a", "a"),
        ("a > 0.2 + 0.08", "a"),
        ("a > -1", "a"),
        ("least(a, b) >= 200", "least(a, b)"),
        ('"my col" < 1', '"my col"'),
        ("s.a.b > 1", "s.a.b"),
        ("a BETWEEN 1 AND 3", "a"),
        ("b - a > 1", "(b - a)"),
        ("a > b", None),
        ("a BETWEEN 1 AND b", None),
        ("a > 1 AND b > 1", None),
        ("NOT a > 1", "a"),
        ("NOT NOT a > 1", "a"),
        ("a NOT BETWEEN 1 AND 3", "a"),
        ("NOT (a > 1 AND a < 3)", None),
        ("caption IS NULL", None),
        ("1 > 2", None),
    ],
)
def test_comparison_side(expression: str, side: str | None) -> None:
    assert sql.comparison_side(expression) == side


def test_evaluate_keeps_order_and_counts_null_as_false() -> None:
    table = pa.table({"a": [5, None, 1, 7], "unused": [1, 2, 3, 4]})
    assert sql.evaluate("a > 2", table).to_pylist() == [True, False, False, True]
    assert sql.evaluate("a IS NULL", table).to_pylist() == [False, True, False, False]


def test_evaluate_reads_only_the_columns_it_names() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4, np.float16)), 2)
    table = pa.table({"embedding": vectors, "a": [1, 3]})
    assert sql.evaluate("a > 2", table).to_pylist() == [False, True]


def test_evaluate_without_columns_or_rows() -> None:
    table = pa.table({"a": [1, 2]})
    assert sql.evaluate("true", table).to_pylist() == [True, True]
    assert sql.evaluate("a > 1", table.slice(0, 0)).to_pylist() == []
    assert sql.evaluate("true", table.slice(0, 0)).to_pylist() == []


def test_a_value_that_cannot_be_computed_is_false_for_its_row_alone() -> None:
    table = pa.table({"caption": ["1", "x", None, "4000000000", "2"]})
    assert sql.evaluate("caption::INT > 0", table).to_pylist() == [True, False, False, False, True]
    assert sql.evaluate("caption::INT * caption::INT > 1", table).to_pylist() == [False, False, False, False, True]


def test_evaluate_refuses_a_column_that_is_not_there() -> None:
    table = pa.table({"caption": ["1"]})
    with pytest.raises(ConfigError, match="names the column 'url'"):
        sql.evaluate("url = 'x'", table)


def test_evaluate_is_quick_enough_to_run_per_batch() -> None:
    table = pa.table({"a": list(range(1000)), "caption": ["a caption"] * 1000})
    sql.evaluate("a > 500 AND length(caption) > 2", table)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        assert sql.evaluate("a > 500 AND length(caption) > 2", table).true_count == 499
        best = min(best, time.perf_counter() - started)
    assert best < 0.03  # seconds: ten times what it takes


def test_threads_do_not_share_a_connection() -> None:
    results: list[int] = []

    def work(limit: int) -> None:
        table = pa.table({"a": list(range(200))})
        for _ in range(20):
            results.append(sql.evaluate(f"a >= {limit}", table).true_count - (200 - limit))

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (10, 50, 90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 60


def test_a_connection_is_locked_down() -> None:
    connection = sql.connect()
    for statement in (
        "SELECT * FROM read_csv('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/pairsift-should-not-be'",
        "SET enable_external_access = true",
        "SET threads = 4",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(statement)
    hidden = pa.table({"x": [1]})  # a variable of that name must not become a table
    with pytest.raises(duckdb.Error):
        connection.execute("SELECT * FROM hidden")
    assert hidden.num_rows == 1
