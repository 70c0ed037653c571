"""The ledger as one SQL view, for people who ask it questions."""

import duckdb
import pyarrow as pa

from pairsift.pipeline.ledger.layers import Layer, Ledger
from pairsift.pipeline.plan import Plan
from pairsift.stages.sql import quoted


def ledger_sql(plan: Plan, ledger: Ledger, rows: int) -> str:
    """SELECT of one row per input row, of which there are `rows`, with the columns of all layers, for DuckDB."""
    intake, *layers = plan.layers
    select = ["i.ordinal", *(f"i.{quoted(c)}" for c in intake.columns)]
    select += [f"l{n}.{quoted(c)}" for n, layer in enumerate(layers) for c in layer.columns]
    joins = [f"LEFT JOIN ({_source(ledger, layer, rows)}) l{n} USING (ordinal)" for n, layer in enumerate(layers)]
    return f"SELECT {', '.join(select)} FROM ({_source(ledger, intake, rows)}) i {' '.join(joins)}"


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _source(ledger: Ledger, layer: Layer, rows: int) -> str:
    """SELECT of a layer's committed rows, or of none where nothing was committed."""
    names = ["ordinal", *layer.columns]
    folder = f"layers/{layer.name}"
    if not ledger.work.names(folder):
        empty = ", ".join(f"NULL::{_duckdb_type(layer.schema.field(name).type)} AS {quoted(name)}" for name in names)
        return f"SELECT {empty} WHERE false"
    # A pattern, for there may be a million files. Rows of an intake that was cut short have ordinals from `rows` on.
    files = "".join(f"[{c}]" if c in "*?[" else c for c in ledger.work.path(folder)) + "/*/*.parquet"
    return f"SELECT {', '.join(map(quoted, names))} FROM read_parquet({literal(files)}) WHERE ordinal < {rows}"


def _duckdb_type(kind: pa.DataType) -> str:
    """What an empty column of this type is called in SQL. A vector's float16 is FLOAT, as where it is read from Parquet."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return f"{_duckdb_type(kind.value_type)}[]"
    if pa.types.is_float16(kind):
        return "FLOAT"
    table = pa.table({"x": pa.nulls(0, kind)})
    found = duckdb.connect().from_arrow(table)
    return str(found.types[0])
