"""The cut: filters and selectors applied to the ledger, by SQL over its columns; every input row gets one fate.

The steps are played in the config's order. Each segment of row-local steps is one pass, a CASE over the layers joined
by ordinal; each selector is one query over the rows that are left. A row that is alive where a stage's layer lacks it is
*pending* there: the run computes those rows, and the cut is complete when none is left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pairsift.pipeline.config import Shards
from pairsift.pipeline.intake import Generation
from pairsift.pipeline.ledger import Layer, Ledger, unit_path
from pairsift.pipeline.plan import Plan, Step
from pairsift.stages import sql
from pairsift.stages.base import ConfigError, Filter, Selector, Stage
from pairsift.stages.fates import Failure, Status

FATES = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("code", pa.string()),  # of fates.Failure
        pa.field("error_message", pa.string()),
        pa.field("rejected_by", pa.string()),  # the filter's or selector's name, for rejects and duplicates
        pa.field("score", pa.float64()),  # what the rule looked at
        pa.field("duplicate_of", pa.string()),  # the keeper's key
        pa.field("shard", pa.string()),  # "00000" for the kept; with `layout: img2dataset`, for all
    ]
)
_INPUT = -1  # `stop` of a row that the reader could not read
_ROWS_PER_BATCH = 1 << 16
_MARK = '"pairsift mark"'  # where a row stopped, times two, and one more where it is pending; no user's column is called so


@dataclass(frozen=True)
class Pending:
    """Rows that wait for a stage, and the units they are in."""

    step: int
    rows: int


class Cut:
    """The state of one cut: a DuckDB table `state` with, for each row, the step it stopped at (null: still alive)."""

    def __init__(self, plan: Plan, ledger: Ledger, generations: list[Generation], limit: int | None = None) -> None:
        self.plan, self._ledger, self._generations = plan, ledger, generations
        total = sum(g.rows for g in generations)
        self.rows = total if limit is None else min(limit, total)
        self.con = duckdb.connect()
        self.con.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
        self.con.execute(sql.KEEP_TRY_WHOLE)
        spill = f"{ledger.work.uri}/spill" if ledger.work.local else ""
        if spill:
            self.con.execute(f"SET temp_directory = {literal(spill)}")
        if not ledger.work.local:
            self.con.register_filesystem(ledger.work.filesystem)
        self._done = 0  # steps played

    def __enter__(self) -> "Cut":
        return self

    def __exit__(self, *exception: object) -> None:
        self.con.close()

    def play(self, end: int) -> list[Pending]:
        """Play the steps up to `end`; returns what is pending there, by step. Nothing is played past a pending step."""
        self._start()
        for first, last in self.plan.segments():
            self._segment(first, min(last, end))
            pending = self._pending()
            if pending or last >= end:
                return pending
            self._select(self.plan.steps[last])
        return []

    def pending_units(self) -> list[int]:
        """Units with pending rows, in order."""
        found: list[int] = []
        for g in self._generations:
            query = (
                f"SELECT DISTINCT {g.first_unit} + (ordinal - {g.first_ordinal}) // {g.unit_rows} AS unit FROM state "
                f"WHERE pending AND ordinal >= {g.first_ordinal} AND ordinal < {g.end_ordinal} ORDER BY unit"
            )
            found += [int(row[0]) for row in self.con.execute(query).fetchall()]
        return found

    def dead(self, step: int) -> pa.Table:
        """Ordinals of the rows that a selector took out, sorted."""
        query = f"SELECT ordinal FROM state WHERE stop = {step} ORDER BY ordinal"
        return self.con.sql(query).to_arrow_table().cast(pa.schema([("ordinal", pa.int64())]))

    def rows_in(self, layer: Layer) -> int:
        """Rows that a layer holds, alive or not."""
        counted = self.con.execute(f"SELECT count(*) FROM ({self._source(layer, [])})").fetchone()
        return int(counted[0]) if counted else 0

    def ledger_sql(self) -> str:
        """SELECT of one row per input row, with the columns of all layers."""
        intake, *layers = self.plan.layers
        select = ["i.ordinal", *(f"i.{_name(c)}" for c in intake.columns)]
        select += [f"l{n}.{_name(c)}" for n, layer in enumerate(layers) for c in layer.columns]
        joins = [f"LEFT JOIN ({self._source(layer, layer.columns)}) l{n} USING (ordinal)" for n, layer in enumerate(layers)]
        return f"SELECT {', '.join(select)} FROM ({self._source(intake, intake.columns)}) i {' '.join(joins)}"

    def fates(self, shards: Shards) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """One row per input row, in ordinal order, with FATES' columns, and beside it the step where each row stopped
        (null: kept, -1: not read). Call it when nothing is pending."""
        kept = ", ".join(f"({g.number}, {g.first_ordinal}, {g.end_ordinal})" for g in self._generations) or "(0, 0, 0)"
        layers = self._source(self.plan.intake, ["key", "uid", *self._if_given("url")])
        url = "i.url" if self._if_given("url") else "NULL::VARCHAR"
        query = f"""
            WITH generation(number, first, last) AS (VALUES {kept}),
            ranked AS (
                SELECT ordinal, number, row_number() OVER (PARTITION BY number ORDER BY ordinal) - 1 AS place
                FROM state JOIN generation ON ordinal >= first AND ordinal < last WHERE stop IS NULL OR {shards.lists_all}
            ),
            shards AS (
                SELECT number, sum(shards) OVER (ORDER BY number) - shards AS base
                FROM (SELECT number, ceil(count(*) / {shards.rows}) AS shards FROM ranked GROUP BY number)
            )
            SELECT s.stop, s.ordinal, i.key, i.uid, {url} AS url,
                {self._status()} AS status, s.failure AS code, s.detail AS error_message, {self._labels()} AS rejected_by,
                s.score, printf('%09d', s.duplicate_of) AS duplicate_of,
                CASE WHEN r.place IS NULL OR {not self.plan.packs} THEN NULL
                     ELSE printf('%05d', (shards.base + r.place // {shards.rows})::BIGINT) END AS shard
            FROM state s JOIN ({layers}) i USING (ordinal) LEFT JOIN ranked r USING (ordinal) LEFT JOIN shards USING (number)
            ORDER BY s.ordinal"""
        for batch in self.con.sql(query).to_arrow_reader(_ROWS_PER_BATCH):
            yield pa.record_batch([batch[f.name].cast(f.type) for f in FATES], schema=FATES), batch["stop"]

    def _if_given(self, column: str) -> list[str]:
        return [column] if column in self.plan.intake.columns else []

    def _start(self) -> None:
        source = self._source(self.plan.intake, ["failure", "failure_detail"])
        self.con.execute(
            f"""CREATE OR REPLACE TEMP TABLE state AS SELECT ordinal,
                CASE WHEN failure IS NULL THEN NULL ELSE {_INPUT} END::INTEGER AS stop, false AS pending, failure,
                failure_detail AS detail, NULL::DOUBLE AS score, NULL::BIGINT AS duplicate_of
            FROM ({source})"""
        )
        counted = self.con.execute("SELECT count(*) FROM state").fetchone()
        if counted is None or counted[0] != self.rows:
            raise ConfigError(
                f"{self._ledger.work.uri}: the input layer is damaged: {counted and counted[0]} of {self.rows} rows are there"
            )

    def _segment(self, first: int, last: int) -> None:
        """Play row-local steps [first, last) on the rows that are alive: one pass over the columns they name."""
        steps = self.plan.steps[first:last]
        if not steps:
            return
        columns = {c for s in steps if isinstance(s.entry, Filter) for c in s.entry.reads()}
        joins = self._joins(columns, [s.layer for s in steps if s.layer])
        whens, scores, failures, details = [], [], [], []
        for step in steps:
            k = step.index
            if isinstance(step.entry, Filter):
                # On lines of their own: an expression may end in a comment.
                whens.append(f"WHEN NOT coalesce(TRY((\n{step.entry.predicate()}\n)), false) THEN {2 * k}")
                if score := step.entry.score():
                    scores.append(f"WHEN {2 * k} THEN TRY(CAST((\n{score}\n) AS DOUBLE))")
                continue
            whens.append(f'WHEN NOT "has {k}" THEN {2 * k + 1} WHEN "failure {k}" IS NOT NULL THEN {2 * k}')
            failures.append(f'WHEN {2 * k} THEN "failure {k}"')
            details.append(f'WHEN {2 * k} THEN "detail {k}"')
        played = f"SELECT *, CASE {' '.join(whens)} END AS {_MARK} FROM ({joins})"
        self.con.execute(
            f"""CREATE OR REPLACE TEMP TABLE played AS SELECT ordinal,
                ({_MARK} // 2)::INTEGER AS stop, coalesce({_MARK} % 2 = 1, false) AS pending,
                {_case(_MARK, failures, "VARCHAR")} AS failure, {_case(_MARK, details, "VARCHAR")} AS detail,
                {_case(_MARK, scores, "DOUBLE")} AS score, NULL::BIGINT AS duplicate_of
            FROM ({played})"""
        )
        self._replace_alive("played")

    def _replace_alive(self, table: str) -> None:
        """Take the rows of `table` in place of the state's rows that were alive."""
        self.con.execute(
            f"""CREATE OR REPLACE TEMP TABLE next AS
                SELECT * FROM state WHERE stop IS NOT NULL UNION ALL BY NAME SELECT * FROM {table}"""
        )
        self.con.execute(f"DROP TABLE state; ALTER TABLE next RENAME TO state; DROP TABLE {table}")

    def _joins(self, columns: set[str], layers: Sequence[Layer]) -> str:
        """Rows that are alive, with `columns`, and for each stage's layer whether it has the row and how it failed."""
        select, joins = ["s.ordinal"], []
        for n, layer in enumerate(
            dict.fromkeys([*layers, *(self.plan.layer_of(c) for c in sorted(columns) if c != "ordinal")])
        ):
            wanted = [c for c in layer.columns if c in columns]
            played = layer in layers
            extra = ["failure", "failure_detail"] if played else []
            joins.append(f"LEFT JOIN ({self._source(layer, [*wanted, *extra])}) l{n} USING (ordinal)")
            select += [f"l{n}.{_name(c)}" for c in wanted]
            if played:
                k = next(s.index for s in self.plan.steps if s.layer == layer)
                select += [
                    f'l{n}.ordinal IS NOT NULL AS "has {k}"',
                    f'l{n}.failure AS "failure {k}"',
                    f'l{n}.failure_detail AS "detail {k}"',
                ]
        return f"SELECT {', '.join(select)} FROM (SELECT ordinal FROM state WHERE stop IS NULL) s {' '.join(joins)}"

    def _select(self, step: Step) -> None:
        entry = step.entry
        assert isinstance(entry, Selector)
        cases = " ".join(f"WHEN ordinal < {g.end_ordinal} THEN {g.number}" for g in self._generations)
        rows = f"SELECT *, CASE WHEN false THEN 0 {cases} END AS generation FROM ({self._joins(set(entry.reads()), [])})"
        self.con.execute(f'CREATE OR REPLACE TEMP TABLE "rows" AS {rows}')
        self.con.execute(
            f"""CREATE OR REPLACE TEMP TABLE played AS SELECT r.ordinal,
                CASE WHEN g.ordinal IS NOT NULL THEN {step.index} END::INTEGER AS stop, false AS pending,
                NULL::VARCHAR AS failure, NULL::VARCHAR AS detail,
                g.score::DOUBLE AS score, g.duplicate_of::BIGINT AS duplicate_of
            FROM "rows" r LEFT JOIN ({entry.reduce()}) g USING (ordinal)"""
        )
        self.con.execute('DROP TABLE "rows"')
        self._replace_alive("played")

    def _pending(self) -> list[Pending]:
        query = "SELECT stop, count(*) FROM state WHERE pending GROUP BY stop ORDER BY stop"
        return [Pending(int(step), int(rows)) for step, rows in self.con.execute(query).fetchall()]

    def _source(self, layer: Layer, columns: Sequence[str]) -> str:
        """SELECT of a layer's committed rows, or of none where nothing was committed."""
        units = sum(g.units for g in self._generations)
        committed = [unit for unit in self._ledger.units(layer) if unit < units]
        paths = [self._ledger.work.path(f"layers/{layer.name}/{unit_path(unit)}.parquet") for unit in committed]
        names = ["ordinal", *dict.fromkeys(columns)]
        if not paths:
            empty = ", ".join(f"NULL::{_duckdb_type(layer.schema.field(name).type)} AS {_name(name)}" for name in names)
            return f"SELECT {empty} WHERE false"
        listed = ", ".join(literal(path) for path in paths)
        return f"SELECT {', '.join(map(_name, names))} FROM read_parquet([{listed}]) WHERE ordinal < {self.rows}"

    def _status(self) -> str:
        whens = [f"WHEN s.failure = '{failure.value}' THEN '{failure.status.value}'" for failure in Failure]
        for step in self.plan.steps:
            if isinstance(step.entry, Selector):
                whens.append(f"WHEN s.stop = {step.index} THEN '{step.entry.status.value}'")
        return f"CASE WHEN s.stop IS NULL THEN '{Status.SUCCESS.value}' {' '.join(whens)} ELSE '{Status.REJECTED.value}' END"

    def _labels(self) -> str:
        rules = [step for step in self.plan.steps if not isinstance(step.entry, Stage)]
        return _case("s.stop", [f"WHEN {s.index} THEN {literal(s.label)}" for s in rules], "VARCHAR")


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _case(what: str, whens: Sequence[str], kind: str) -> str:
    return f"CASE {what} {' '.join(whens)} END" if whens else f"NULL::{kind}"


def _duckdb_type(kind: pa.DataType) -> str:
    """What an empty column of this type is called in SQL. A vector's float16 is FLOAT, as where it is read from Parquet."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return f"{_duckdb_type(kind.value_type)}[]"
    if pa.types.is_float16(kind):
        return "FLOAT"
    table = pa.table({"x": pa.nulls(0, kind)})
    found = duckdb.connect().from_arrow(table)
    return str(found.types[0])
