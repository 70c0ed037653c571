"""Row predicates: DuckDB expressions that are a pure function of one row's columns.

An expression is parsed by DuckDB itself (`json_serialize_sql`), and its tree is walked: only node classes and functions that
are known to be pure pass. What is not understood is refused, so that a rule gives the same answer today, tomorrow and on
any worker.
"""

import difflib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from pairsift.stages.base import ConfigError

Node = dict[str, Any]

# Node classes of DuckDB's parser that only combine their children.
_PLAIN = frozenset({"COMPARISON", "CONJUNCTION", "CONSTANT", "OPERATOR", "CASE", "CAST", "BETWEEN", "COLLATE", "TYPE"})
_REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "POSITIONAL_REFERENCE": "a positional reference",
    "PARAMETER": "a parameter",
    "LAMBDA_REF": "a lambda outside a function",
    "DEFAULT": "DEFAULT",
}
# Words that DuckDB parses as columns and, where there is no such column, takes for the clock.
_CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
# DuckDB calls these consistent (the last three up to 1.5), but they read the clock, or tell of the program instead of the row.
_IMPURE = frozenset(
    {"age", "current_localtime", "current_localtimestamp", "version", "pg_typeof"}
    | {"current_setting", "getvariable", "vector_type"}
)

# DuckDB takes an expression that occurs twice out of a TRY, computes it once before it, and fails there.
KEEP_TRY_WHOLE = "SET disabled_optimizers = 'common_subexpressions'"

_local = threading.local()


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that cannot reach files, the network or extensions, on one thread, with the clock's zone at UTC."""
    connection = duckdb.connect(config={"threads": 1, "enable_external_access": False})
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")  # casts of timestamps must not depend on the machine
    connection.execute("SET python_enable_replacements = false")  # a Python variable is never a table
    connection.execute(KEEP_TRY_WHOLE)
    connection.execute("SET lock_configuration = true")
    return connection


def columns_of(expression: str) -> tuple[str, ...]:
    """The columns that one SQL expression names, each once, in the order of first mention, spelt as written.

    Of a struct access `s.a.b` it is `s`. Parameters of lambdas are no columns.

    Raises:
        ConfigError: where the text is not exactly one expression, or it is not a pure function of one row: a subquery, an
            aggregate, a window, `*`, random(), now() and their like.
    """
    return _columns_of(expression)


@lru_cache(maxsize=1024)
def _columns_of(expression: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_column_names(_parse(expression), frozenset(), expression)))


def typecheck(expression: str, schema: pa.Schema) -> str:
    """DuckDB's name of the expression's type (`BOOLEAN`, `DOUBLE`, …) over columns of these Arrow types. Reads no rows.

    Raises:
        ConfigError: for a column that `schema` does not have, and for what DuckDB cannot bind.
    """
    names = columns_of(expression)
    _require(names, schema.names, expression)
    empty = pa.schema([schema.field(name) for name in names]).empty_table()
    described = _run(f"DESCRIBE SELECT (\n{expression}\n) FROM rows", empty, names, expression)
    return str(described[0][1])


def check_predicate(expression: str, schema: pa.Schema) -> None:
    """`typecheck`, and that the type is BOOLEAN. Raises ConfigError where it is not."""
    found = typecheck(expression, schema)
    if found != "BOOLEAN":
        raise ConfigError(f"the rule {_quote(expression)} gives {found}, not true or false: compare it with something")


def evaluate(expression: str, table: pa.Table) -> pa.BooleanArray:
    """The predicate's truth for each row of `table`, in order, without nulls: null counts as false, and so does a
    value that DuckDB cannot compute with (a failed cast).

    Raises:
        ConfigError: for a column that `table` does not have.
    """
    names = columns_of(expression)
    _require(names, table.schema.names, expression)
    query = f"SELECT coalesce(TRY(CAST((\n{expression}\n) AS BOOLEAN)), false) FROM rows"
    return pa.array([row[0] for row in _run(query, table, names, expression)], pa.bool_())


def select(expressions: Mapping[str, str], table: pa.Table) -> pa.Table:
    """The expressions' values for each row of `table`, in order, under the names that they are given.

    Raises:
        ConfigError: for a column that `table` does not have, and for a value that DuckDB cannot compute with.
    """
    names = tuple(dict.fromkeys(name for expression in expressions.values() for name in columns_of(expression)))
    _require(names, table.schema.names, "; ".join(expressions.values()))
    items = ", ".join(f"(\n{expression}\n) AS {quoted(name)}" for name, expression in expressions.items())
    try:
        with _registered(table, names) as connection:
            return connection.sql(f"SELECT {items} FROM rows").to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"a column does not work: {_first_lines(error)}") from error


def quoted(name: str) -> str:
    """A column's name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


@lru_cache(maxsize=1024)
def comparison_side(expression: str) -> str | None:
    """Of a comparison with a constant (`x >= 0.28`, `0.28 <= x`, `NOT x BETWEEN 1 AND 2`), the SQL of the side that is not
    constant; of anything else, None. Says nothing of its type. Raises ConfigError as `columns_of`."""
    columns_of(expression)
    node = _parse(expression)
    while node["type"] == "OPERATOR_NOT":  # DuckDB 1.5 parses NOT x > 1 as x <= 1, so it is seen through with any
        node = node["children"][0]
    if node["class"] == "COMPARISON":
        sides = [node["left"], node["right"]]
    elif node["class"] == "BETWEEN":
        sides = [node["input"], node["lower"], node["upper"]]
    else:
        return None
    varying = [side for side in sides if any(True for _ in _column_names(side, frozenset(), expression))]
    return _text(varying[0]) if len(varying) == 1 else None


def _connection() -> duckdb.DuckDBPyConnection:
    """This thread's connection: a DuckDB connection must not be shared by threads, and a new one costs 20 ms."""
    connection: duckdb.DuckDBPyConnection | None = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = connect()
    return connection


def _run(query: str, table: pa.Table, names: tuple[str, ...], expression: str) -> list[Any]:
    """The query's rows over `rows`: only the columns it names, since DuckDB cannot scan an Arrow float16 list at all."""
    try:
        with _registered(table, names) as connection:
            return connection.execute(query).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"the rule {_quote(expression)} does not work: {_first_lines(error)}") from error


@contextmanager
def _registered(table: pa.Table, names: tuple[str, ...]) -> Iterator[duckdb.DuckDBPyConnection]:
    # DuckDB needs a column to count rows by, also where the expression names none.
    rows = table.select(list(names)) if names else pa.table({"row": pa.nulls(table.num_rows, pa.bool_())})
    connection = _connection()
    connection.register("rows", rows)
    try:
        yield connection
    finally:
        connection.unregister("rows")


def _require(names: tuple[str, ...], known: list[str], expression: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"the rule {_quote(expression)} names the column {name!r}, which is not there{_hint(name, known)}; "
                f"columns: {', '.join(known) or 'none'}"
            )
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise ConfigError(f"the rule {_quote(expression)} names {other!r} and {name!r}: SQL cannot tell their case apart")


def _hint(name: str, known: list[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def _parse(expression: str) -> Node:
    """The tree of the one expression that the text is. Raises ConfigError where it is not one."""
    found = json.loads(
        _connection().execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT {expression}"]).fetchall()[0][0]
    )
    if found["error"]:
        raise ConfigError(f"the rule {_quote(expression)} is not valid SQL: {found['error_message'].splitlines()[0]}")
    if len(found["statements"]) != 1:
        raise ConfigError(f"the rule {_quote(expression)} must be one expression, without ';'")
    node: Node = found["statements"][0]["node"]
    extra = node["type"] != "SELECT_NODE" or node["from_table"]["type"] != "EMPTY" or node["modifiers"]
    clauses = [node.get(name) for name in ("where_clause", "group_expressions", "having", "qualify", "sample")]
    if extra or any(clauses) or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
        raise ConfigError(f"the rule {_quote(expression)} must be one expression, as stands after WHERE, and nothing else")
    expression_node: Node = node["select_list"][0]
    return expression_node


def _column_names(node: Any, bound: frozenset[str], expression: str) -> Iterator[str]:
    """Columns in the tree below `node`, without the lambda parameters `bound` (lower case). Refuses what is not pure."""
    if isinstance(node, list):
        for child in node:
            yield from _column_names(child, bound, expression)
        return
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind == "COLUMN_REF":
        yield from _column_name(node, bound, expression)
        return
    if kind == "LAMBDA":
        parameters = frozenset(name.lower() for name in _column_names(node["lhs"], frozenset(), expression))
        yield from _column_names(node["expr"], bound | parameters, expression)
        return
    if kind == "FUNCTION":
        _check_function(node, expression)
    elif kind is not None and (kind not in _PLAIN or node.get("type") == "GROUPING_FUNCTION"):
        raise ConfigError(
            f"the rule {_quote(expression)} holds {_REFUSED.get(kind, kind.lower())}: it must look at one row only"
        )
    for child in node.values():
        yield from _column_names(child, bound, expression)


def _column_name(node: Node, bound: frozenset[str], expression: str) -> Iterator[str]:
    name = node["column_names"][0]
    if name.lower() in bound:
        return
    if name.lower() in _CLOCK:
        raise ConfigError(f"the rule {_quote(expression)} uses {name}, which is not the same on every run")
    yield name


def _check_function(node: Node, expression: str) -> None:
    name = node["function_name"].lower()
    # DuckDB 1.5 writes [… FOR x IN …] as functions of "main", which is also where its own functions are.
    if node.get("schema", "main") not in ("", "main") or node.get("catalog"):
        raise ConfigError(f"the rule {_quote(expression)} calls {name}() on something: write {name}(…) with it inside")
    kinds = _functions().get(name)
    if kinds is None:
        hint = _hint(name, list(_functions()))
        raise ConfigError(f"the rule {_quote(expression)} calls {name}(), which is no function of one row in DuckDB{hint}")
    if kinds & {"aggregate", "window"} or name == "unnest":
        raise ConfigError(f"the rule {_quote(expression)} calls {name}(), which looks at more than one row")
    if not _pure(name, frozenset()):
        raise ConfigError(f"the rule {_quote(expression)} calls {name}(), whose result is not decided by the row alone")


@lru_cache(maxsize=1)
def _functions() -> dict[str, frozenset[str]]:
    """Function name to what it is called: aggregate, window, macro, scalar, volatile (scalar, and not a pure function)."""
    rows = connect().execute("SELECT lower(function_name), function_type, stability FROM duckdb_functions()").fetchall()
    kinds: dict[str, set[str]] = {"unnest": {"scalar"}, "coalesce": {"scalar"}}
    for name, kind, stability in rows:
        if kind in ("aggregate", "window", "macro"):
            kinds.setdefault(name, set()).add(kind)
        elif kind == "scalar":
            kinds.setdefault(name, set()).add("scalar" if stability == "CONSISTENT" else "volatile")
    return {name: frozenset(found) for name, found in kinds.items()}


@lru_cache(maxsize=1)
def _macros() -> dict[str, list[str]]:
    """Macro name to the expressions it stands for."""
    query = "SELECT lower(function_name), macro_definition FROM duckdb_functions() WHERE function_type = 'macro'"
    macros: dict[str, list[str]] = {}
    for name, definition in connect().execute(query).fetchall():
        macros.setdefault(name, []).append(definition)
    return macros


def _pure(name: str, within: frozenset[str]) -> bool:
    """Whether a function is decided by its arguments. A macro is what it calls; one that calls itself is not trusted."""
    kinds = _functions().get(name, frozenset({"volatile"}))
    if name in within or name in _IMPURE or kinds & {"volatile", "aggregate", "window"}:
        return False
    return all(_pure_tree(_parse(definition), within | {name}) for definition in _macros().get(name, ()))


def _pure_tree(node: Any, within: frozenset[str]) -> bool:
    if isinstance(node, list):
        return all(_pure_tree(child, within) for child in node)
    if not isinstance(node, dict):
        return True
    kind = node.get("class")
    if kind in _REFUSED or (kind == "COLUMN_REF" and node["column_names"][0].lower() in _CLOCK):
        return False
    if kind == "FUNCTION" and not _pure(node["function_name"].lower(), within):
        return False
    return all(_pure_tree(child, within) for child in node.values())


def _text(node: Node) -> str:
    """The SQL of a tree."""
    select = json.loads(_connection().execute("SELECT json_serialize_sql('SELECT 1')").fetchall()[0][0])
    select["statements"][0]["node"]["select_list"] = [node]
    sql: str = _connection().execute("SELECT json_deserialize_sql(?::VARCHAR)", [json.dumps(select)]).fetchall()[0][0]
    return sql.removeprefix("SELECT ")


def _quote(expression: str) -> str:
    return json.dumps(" ".join(expression.split()), ensure_ascii=False)


def _first_lines(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the quoted query and the list of overloads."""
    message = str(error).split("\n\nLINE")[0].split("\n\tCandidate functions")[0].split("\nLINE")[0]
    return " ".join(message.split())
