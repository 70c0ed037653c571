"""What a block's rows are asked, and how its layers are laid side by side for that."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from pairsift.pipeline.cut.verdicts import ALIVE, stopped, waiting
from pairsift.pipeline.ledger.layers import Numbers
from pairsift.pipeline.plan import Step
from pairsift.stages import sql
from pairsift.stages.base import Filter

_MARK = '"pairsift mark"'  # no user's column is called so
_ROWS_ASKED = 1 << 15  # in a batch of the answer, at most


def segment_sql(steps: Sequence[Step]) -> str:
    """SELECT of `ordinal`, `mark` and `score` over the table `alive`; see verdicts.py for marks."""
    whens, scores = [], []
    for step in steps:
        k = step.index
        if isinstance(step.entry, Filter):
            # On lines of their own: an expression may end in a comment.
            whens.append(f"WHEN NOT coalesce(TRY((\n{step.entry.predicate()}\n)), false) THEN {stopped(k)}")
            if score := step.entry.score():
                scores.append(f"WHEN {stopped(k)} THEN TRY(CAST((\n{score}\n) AS DOUBLE))")
        else:
            whens += [f'WHEN "pairsift lacks {k}" THEN {waiting(k)}', f'WHEN "pairsift failed {k}" THEN {stopped(k)}']
    score = f"CASE {_MARK} {' '.join(scores)} END" if scores else "NULL::DOUBLE"
    played = f"SELECT *, (CASE {' '.join(whens)} ELSE {ALIVE} END)::SMALLINT AS {_MARK} FROM alive"
    return f"SELECT ordinal, {_MARK} AS mark, {score} AS score FROM ({played})"


def asked(query: str, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """What one query says of the rows of tables that it calls `alive`; nothing where there are none. It is planned once, and
    reads a table when it wants more rows: planning costs as much as ten thousand rows. Raises what reading them raises."""
    tables = iter(tables)
    first = next(tables, None)
    if first is None:
        return
    failed: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in chain([first], tables):
                yield from table.to_batches()
        except Exception as error:
            failed.append(error)  # DuckDB would tell it as an error of its own
            raise

    with sql.connect() as con:
        con.register("alive", pa.RecordBatchReader.from_batches(first.schema, batches()))
        try:
            yield from con.sql(query).to_arrow_reader(_ROWS_ASKED)
        except Exception:
            if failed:
                raise failed[0] from None
            raise


def places(held: Numbers, rows: Numbers, count: int) -> tuple[pa.Array | None, Numbers]:
    """Where each of `rows` is in `held`, null where it is not (None: both are the same), and a bool for whether it is not.
    Both are places in a block of `count` rows, in order. `held` may have a row twice, where the first file of a unit was
    removed by hand and one with later rows was not: its first one counts, as for who packs."""
    if len(held) == count and np.array_equal(held, np.arange(count)):
        return None if len(rows) == count else pa.array(rows), np.zeros(len(rows), bool)
    index = np.full(count, -1, np.int64)
    index[held[::-1]] = np.arange(len(held))[::-1]
    found = index[rows]
    lacks = found < 0
    return pa.array(found, mask=lacks), lacks


def together(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least so many bytes, but for the last: an INSERT costs as much as ten thousand rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(held.nbytes for held in waiting) >= size:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind))


def readable(table: pa.Table) -> pa.Table:
    """DuckDB cannot scan Arrow's float16."""
    for n, field in enumerate(table.schema):
        if pa.types.is_float16(field.type):
            table = table.set_column(n, field.name, table[n].cast(pa.float32()))
        elif _is_list(field.type) and pa.types.is_float16(field.type.value_type):
            table = table.set_column(n, field.name, table[n].cast(pa.list_(pa.float32())))
    return table
