"""Selectors dealt out: each process sees some of the rows, and the answer is that of one which sees all.

The waves of tasks, in this order; each wave begins when the one before it has ended:

    scatter    of each part of the ledger, the columns that are needed, into files by partition    only where rows meet by a key
    rounds     of each part or partition a small table; all of them together make the summary
    decide     of each part or partition the rows that go, into files by ordinal

The driver then reads those files, stretch by stretch of ordinals, so that its memory does not grow with the rows. All files
lie in a folder of the work folder, and are gone when the selector has been played.
"""

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pairsift.pipeline.config import Config
from pairsift.pipeline.control import machine
from pairsift.pipeline.cut import database
from pairsift.pipeline.cut.parts import LedgerRows, Part
from pairsift.stages import exchange
from pairsift.stages.base import ConfigError, Finder, Selector, Shares
from pairsift.stages.exchange import Desk, Exchange, Tasks, Written
from pairsift.stages.storage import Folder

ROWS_ALONE = 20_000_000  # up to so many rows are not dealt out unless the config says so: one process has them in minutes
_ROWS_OF_A_PARTITION = 4_000_000
_MEMORY = 256 << 20  # bytes for a worker's DuckDB, unless the config says so; beyond them it uses the disk
_VERDICTS = 'CAST(ordinal AS BIGINT) AS "ordinal", CAST(duplicate_of AS BIGINT) AS duplicate_of, CAST(score AS DOUBLE) AS score'
_PARTITION = "pairsift partition"  # no user's column is called so

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
Load = Callable[[Any], Iterator[pa.Table]]


@dataclass(frozen=True)
class Deal:
    """Who the work is dealt out to. `map`: a function of each item, in any order, in any process."""

    map: Map
    runner: str

    def partitions(self, config: Config, rows: int) -> int:
        """How many partitions so many rows are dealt into; 1: the driver does it by itself."""
        return partitions(config, self.runner, rows)


def partitions(config: Config, runner: str, rows: int) -> int:
    """What the config says; else with Ray one for each four million rows, where there are more than twenty million."""
    if config.cut_partitions is not None:
        return config.cut_partitions
    return -(-rows // _ROWS_OF_A_PARTITION) if runner == "ray" and rows > ROWS_ALONE else 1


def dealable(entry: Selector) -> bool:
    """Whether a selector's work can be dealt out at all."""
    return entry.dealable if isinstance(entry, Finder) else entry.shares() is not None


@contextmanager
def scratch(work: Folder, spill: str) -> Iterator[str]:
    """The name of a folder in the work folder for the files of one selector, which is removed with them.

    `spill` is the cut's folder for what does not fit in memory: in the work folder, unless that is in an object store.
    """
    name = f"{spill.rpartition('/')[2]}/dealt-{uuid.uuid4().hex[:12]}"
    try:
        yield name
    finally:
        if work.local:
            shutil.rmtree(work.path(name), ignore_errors=True)
        else:
            for file in work.names(name):
                work.remove(f"{name}/{file}")


def select(
    shares: Shares, load: LedgerRows, parts: Sequence[Part], deal: Deal, count: int, place: Exchange, memory: int | None
) -> Iterator[pa.Table]:
    """The rows that go, as tables of ordinal, duplicate_of, score; each by ordinal, and each behind the one before it.

    `count`: of partitions. `memory`: bytes for each worker's DuckDB.
    """
    local = Local(place, memory or _MEMORY)
    source: Load = load
    items: Sequence[Any] = parts
    if shares.key:
        scattered = [file for file in deal.map(Scatter(load, shares.rows, shares.key, count, local), parts) if file]
        source, items = FromFiles(place, tuple(scattered)), range(count)
    summary: pa.Table | None = None
    for turn in shares.rounds:
        summary = _merged(turn.whole, deal.map(Summarise(source, turn.part, summary, local), items), summary, local)
    yield from _read(place, deal.map(Decide(source, shares.decide, summary, local), items))


def find(
    finder: Finder, load: LedgerRows, parts: Sequence[Part], deal: Deal, count: int, place: Exchange, memory: int | None
) -> Iterator[pa.Table]:
    """The same for a finder."""
    tasks = Tasks(Desk(load, place, memory or _MEMORY), parts, count, deal.map)
    try:
        yield from _read(place, finder.deal(tasks))
    except ConfigError as error:
        raise ConfigError(f"{finder.use}: {str(error).removeprefix(f'{finder.use}: ')}") from None


def _read(place: Exchange, files: Iterable[Written | None]) -> Iterator[pa.Table]:
    """The verdicts in files, in order."""
    verdicts = [file for file in files if file]
    for stretch in range(max((file.end for file in verdicts), default=0)):
        tables = list(place.read(verdicts, stretch))
        if tables:
            yield _once(pa.concat_tables(tables))


def _once(table: pa.Table) -> pa.Table:
    """By ordinal; of several rows with one ordinal, the one with the smallest score."""
    table = table.sort_by([("ordinal", "ascending"), ("score", "ascending")])
    ordinals = table["ordinal"].to_numpy()
    first = np.ones(len(ordinals), bool)
    first[1:] = ordinals[1:] != ordinals[:-1]
    return table if first.all() else table.filter(pa.array(first))


@dataclass(frozen=True)
class Local:
    """What a process works with: a DuckDB of little memory."""

    place: Exchange
    memory: int

    @contextmanager
    def connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB on one thread, that has one CPU's share of the machine's memory if it needs that."""
        with self.place.nearby() as spill:
            con = database.connect(spill, self.memory, 1 / machine.processors())
            try:
                yield con
            finally:
                con.close()
                machine.give_back()

    @staticmethod
    def fill(con: duckdb.DuckDBPyConnection, name: str, tables: Iterable[pa.Table]) -> bool:
        """Have the tables as one table of this name; returns whether there is any."""
        begin = f'CREATE TEMP TABLE "{name}" AS'
        there = False
        for table in tables:
            con.register("arriving", table)
            database.execute(con, f"{begin} SELECT * FROM arriving")
            con.unregister("arriving")
            begin, there = f'INSERT INTO "{name}"', True
        return there


@dataclass(frozen=True)
class FromFiles:
    """The rows of a partition."""

    place: Exchange
    files: tuple[Written, ...]

    def __call__(self, partition: int) -> Iterator[pa.Table]:
        return self.place.read(self.files, partition)


@dataclass(frozen=True)
class Scatter:
    """Has the rows of a part written down by partition."""

    load: LedgerRows
    rows: str
    key: tuple[str, ...]
    count: int
    local: Local

    def __call__(self, part: Part) -> Written | None:
        with self.local.connected() as con:
            return self.local.place.write(self._pieces(con, part), 0, self.count)

    def _pieces(self, con: duckdb.DuckDBPyConnection, part: Part) -> Iterator[tuple[pa.Table, Any]]:
        partition = f'(hash({", ".join(self.key)}) % {self.count})::INTEGER AS "{_PARTITION}"'
        for table in self.load(part):
            con.register("rows", table)
            found = con.sql(f"SELECT *, {partition} FROM ({self.rows})").to_arrow_table()
            con.unregister("rows")
            yield found.drop_columns([_PARTITION]), found[_PARTITION].to_numpy()


@dataclass(frozen=True)
class Summarise:
    """A round's small table of a part or partition; None where that has no rows."""

    load: Load
    query: str
    summary: pa.Table | None
    local: Local

    def __call__(self, item: Any) -> pa.Table | None:
        with self.local.connected() as con:
            if not self.local.fill(con, "rows", self.load(item)):
                return None
            if self.summary is not None:
                con.register("summary", self.summary)
            database.execute(con, f"CREATE TEMP TABLE found AS {self.query}")
            return con.sql("FROM found").to_arrow_table()


@dataclass(frozen=True)
class Decide:
    """Has the rows of a part or partition that go written down by ordinal."""

    load: Load
    query: str
    summary: pa.Table | None
    local: Local

    def __call__(self, item: Any) -> Written | None:
        with self.local.connected() as con:
            if not self.local.fill(con, "rows", self.load(item)):
                return None
            if self.summary is not None:
                con.register("summary", self.summary)
            database.execute(con, f"CREATE TEMP TABLE gone AS SELECT {_VERDICTS} FROM ({self.query})")
            low, high = con.execute("SELECT min(ordinal), max(ordinal) FROM gone").fetchall()[0]
            if low is None:
                return None
            pieces = (pa.table(batch) for batch in con.sql("FROM gone").to_arrow_reader(1 << 18))
            return self.local.place.write(_by_stretch(pieces), low // exchange.STRETCH, high // exchange.STRETCH + 1)


def _by_stretch(pieces: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, Any]]:
    for table in pieces:
        yield table, table["ordinal"].to_numpy() // exchange.STRETCH


def _merged(query: str, tables: Iterable[pa.Table | None], summary: pa.Table | None, local: Local) -> pa.Table | None:
    with local.connected() as con:
        if not local.fill(con, "found", (table for table in tables if table is not None)):
            return None
        if summary is not None:
            con.register("summary", summary)
        return con.sql(query).to_arrow_table()
