"""The cut: filters and selectors applied to the ledger, by SQL over its columns; every input row gets one fate.

The steps are played in the config's order. Each segment of row-local steps is one pass over the ledger's blocks, a CASE over
the columns of its layers; each selector is one query over the rows that are left. A row that is alive where a stage's layer
lacks it is *pending* there: the run computes those rows, and the cut is complete when none is left.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.control import machine
from pairsift.pipeline.cut import database, dealt, finding, segment
from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.cut.fates import Fates
from pairsift.pipeline.cut.parts import Columns, LedgerRows, Parts, read_rows
from pairsift.pipeline.cut.pool import Pool
from pairsift.pipeline.cut.verdicts import ALIVE, SET_ASIDE, UNREAD, Verdicts, stopped, waiting
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.freed import FreedImages
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers
from pairsift.pipeline.ledger.retry import read_retries
from pairsift.pipeline.ledger.tombstones import Tombstones
from pairsift.pipeline.plan import Plan, Step
from pairsift.pipeline.sections import Shards
from pairsift.stages import schema
from pairsift.stages.base import Filter, Finder, Selector, Shares
from pairsift.stages.exchange import Exchange
from pairsift.stages.storage import Folder

__all__ = ["FATES", "Cut", "Pending"]

_ROWS_AT_ONCE = 1 << 15  # that a selector tells: some megabytes
_SHARE_AT_ONCE = 1 / 24  # of DuckDB's memory: what a selector is given in one statement


@dataclass(frozen=True)
class Pending:
    """Rows that wait for a stage."""

    step: int
    rows: int


class Held(NamedTuple):
    """What a layer holds: rows, the images that these refer to, and their bytes."""

    rows: int
    images: int
    image_bytes: int


class Cut:
    """The state of one cut. Play it, ask what is pending, and when nothing is, for the fates.

    `memory` is what DuckDB may take for a selector, in bytes; what does not fit goes to a folder spill-… in `work`. `deal`: who
    shares the work of selectors with many rows; None: nobody.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        generations: list[Generation],
        limit: int | None = None,
        memory: int | None = None,
        deal: dealt.Deal | None = None,
    ) -> None:
        self.plan, self._ledger, self._generations, self._deal = plan, ledger, generations, deal
        total = sum(g.rows for g in generations)
        self.rows = total if limit is None else min(limit, total)
        self._retries = read_retries(ledger, generations, plan, self.rows)
        self._left_out = self._retries.left_out(self.rows) if len(self._retries.ordinals) else None
        self._tombstones = Tombstones.load(ledger.work)
        self._held = np.empty(0, np.int64)
        self._blocks = Blocks(ledger, generations, self.rows)
        self._pool = Pool(self._blocks.count)
        self._spill = _spill_folder(ledger.work)
        self._verdicts = Verdicts(0, self._spill)
        self._memory = memory  # as it was said; a selector that is dealt out decides by itself
        self._own_memory = memory or database.memory_for(self.rows)
        self.con = self._connect()

    def __enter__(self) -> "Cut":
        return self

    def __exit__(self, *exception: object) -> None:
        self.con.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        return database.connect(self._spill, self._own_memory)

    def interrupt(self) -> None:
        """From any thread: have `play` or `fates` raise duckdb.InterruptException soon."""
        self._pool.interrupt()
        with suppress(duckdb.ConnectionException):  # closed just now, between two selectors
            self.con.interrupt()

    @property
    def input_rows(self) -> int:
        """Rows that have a fate: those that are there once, however often they were tried."""
        return self.rows - (0 if self._left_out is None else int(self._left_out.sum()))

    def failed(self, codes: frozenset[str]) -> pa.Table:
        """The rows that ended at a stage with one of these codes, in order: original (ordinal), layer (the stage's). Call it
        after `play`."""
        found = [pa.table({"original": pa.array([], pa.int64()), "layer": pa.array([], pa.string())})]
        fates = self._fates()
        for ordinals, steps in self._pool.each(lambda block: self._failed_in(block, codes, fates)):
            layers = [step.layer.name if step.layer else None for step in self.plan.steps]
            found.append(
                pa.table({"original": pa.array(ordinals), "layer": pa.array(layers, pa.string()).take(pa.array(steps))})
            )
        return pa.concat_tables(found).combine_chunks()

    def _failed_in(self, block: int, codes: frozenset[str], fates: Fates) -> tuple[Numbers, Numbers]:
        first, end = self._blocks.bounds[block]
        marks = self._verdicts.marks[first:end]
        stages = [stopped(step.index) for step in self.plan.steps if step.layer]
        ended = np.isin(marks, stages)
        if self._left_out is not None:
            ended &= ~self._left_out[first:end]
        stops = pa.array(marks.astype(np.int16) - np.int16(stopped(0)), mask=~ended)
        found = fates.failures(block, stops)[0]
        rows = np.flatnonzero(pc.is_in(found, pa.array(sorted(codes))).to_numpy(zero_copy_only=False))
        return rows + first, marks[rows].astype(np.int64) - stopped(0)

    def play(self, end: int) -> list[Pending]:
        """Play the steps up to `end`; returns what is pending there, by step. Nothing is played past a pending step.

        Raises OSError where rows of the input layer are missing.
        """
        self._start()
        for first, last in self.plan.segments():
            self._segment(self.plan.steps[first : min(last, end)])
            self._miss_freed(first, min(last, end))
            pending = [Pending(step, rows) for step, rows in self._verdicts.pending().items()]
            if pending or last >= end:
                return pending
            self._select(self.plan.steps[last])
            self.con.close()  # it keeps tens of megabytes after a query
            self.con = self._connect()
            machine.give_back()
        return []

    def pending_units(self) -> list[int]:
        """Units with pending rows, in order."""
        found: list[int] = []
        for ordinals in self._verdicts.pending_ordinals():
            for g in self._generations:
                start, end = np.searchsorted(ordinals, [g.first_ordinal, g.end_ordinal])
                if start < end:
                    units = np.unique((ordinals[start:end] - g.first_ordinal) // g.unit_rows) + g.first_unit
                    found += units[1 if found and found[-1] == units[0] else 0 :].tolist()
        return found

    def stops(self) -> dict[int | None, int]:
        """Rows by the step where they ended; None: still alive, -1: not read."""
        return {None if mark == ALIVE else mark - stopped(0): rows for mark, rows in self._verdicts.counts().items()}

    def hold_places(self, ordinals: Numbers) -> None:
        """Leave the places of these rows, rising, empty in `fates`, so that the rows behind them keep theirs."""
        self._held = ordinals

    def dead(self, step: int) -> pa.Table:
        """Ordinals of the rows that a selector took out, sorted."""
        return pa.table({"ordinal": pa.array(self._verdicts.at(step), pa.int64())})

    def held(self, layer: Layer) -> Held:
        """What a layer holds of all rows, alive or not."""
        length = [schema.IMAGE_LENGTH.name] if schema.IMAGE_LENGTH.name in layer.columns else []

        def look(block: int) -> Held:
            table = self._blocks.read(layer, block, length)
            if not length:
                return Held(len(table), 0, 0)
            lengths = table[length[0]]
            return Held(len(table), len(lengths) - lengths.null_count, pc.sum(lengths).as_py() or 0)

        return Held(*map(sum, zip(Held(0, 0, 0), *self._pool.each(look), strict=True)))

    def kept(self, columns: set[str]) -> Iterator[pa.Table]:
        """`ordinal` and these columns of the rows that are kept, in order, a table for each block. Call it when nothing is
        pending."""
        yield from self._pool.each(lambda block: segment.readable(self._alive(block, columns)))

    def fates(self, shards: Shards) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """One row per input row, in ordinal order, with FATES' columns, and beside it the step where each row stopped
        (null: kept, -1: not read). Call it when nothing is pending."""
        return self._fates().batches(shards, self._held)

    def _fates(self) -> Fates:
        return Fates(self.plan, self._ledger, self._generations, self._blocks, self._verdicts, self._retries, self._pool)

    def _start(self) -> None:
        self._verdicts = Verdicts(self.rows, self._spill)
        there = sum(self._pool.each(self._start_block))
        if there != self.rows:
            folder = self._ledger.work.path(f"layers/{self.plan.intake.name}")
            raise OSError(f"{folder}: holds {there:,} of {self.rows:,} rows of the input; `pairsift check` says what to do")
        self._verdicts.set(self._retries.ordinals[~self._retries.counted], stopped(SET_ASIDE))

    def _start_block(self, block: int) -> int:
        """Mark what could not be read, and what was removed; returns how many of the block's ordinals are there."""
        table = self._blocks.read(self.plan.intake, block, ["failure"])
        ordinals = table["ordinal"].to_numpy()
        if table["failure"].null_count < len(table):
            self._verdicts.set(ordinals[table["failure"].is_valid().to_numpy()], stopped(UNREAD))
        for removed in self._tombstones.ordinals(self._blocks, self.plan, block):
            self._verdicts.set(removed, stopped(UNREAD))
        return len(ordinals) if np.all(np.diff(ordinals) == 1) else len(np.unique(ordinals))

    def _segment(self, steps: Sequence[Step]) -> None:
        """Play row-local steps on the rows that are alive: one pass over the columns they name."""
        if not steps:
            return
        columns = {c for s in steps if isinstance(s.entry, Filter) for c in s.entry.reads()}
        query = segment.segment_sql(steps)
        self._pool.share(lambda blocks: self._play_blocks(blocks, steps, columns, query))

    def _miss_freed(self, first: int, end: int) -> None:
        """Have rows fail at the step that made their image where it has been freed, and is needed: see ledger/freed.py."""
        for step in self.plan.steps[:end]:
            if step.layer and step.makes_images and (freed := FreedImages(self._ledger.work, step.layer.name)):
                tried = self._retries.originals[self._retries.steps == step.index] if step.index >= first else []
                packed = self.plan.packs and end == len(self.plan.steps)
                for bounds in self._blocks.bounds:
                    ordinals = freed.between(*bounds)
                    marks = self._verdicts.marks[ordinals]
                    needed = (marks > waiting(step.index)) | ((marks == ALIVE) & (packed | np.isin(ordinals, tried)))
                    self._verdicts.set(ordinals[needed], stopped(step.index))

    def _play_blocks(self, blocks: Iterator[int], steps: Sequence[Step], columns: set[str], query: str) -> None:
        played = [step for step in steps if step.layer]
        tables = (table for block in blocks if len(table := self._alive(block, columns, played)))
        for batch in segment.asked(query, tables):
            ordinals, marks, scores = batch.columns
            ended = marks.to_numpy() != ALIVE
            self._verdicts.set(ordinals.to_numpy()[ended], marks.to_numpy()[ended], scores.filter(pa.array(ended)))

    def _alive(self, block: int, columns: set[str], steps: Sequence[Step] = ()) -> pa.Table:
        """The rows of a block that are alive, with these columns; and for each stage whether its layer lacks the row, and
        whether it failed there."""
        first, end = self._blocks.bounds[block]
        rows = np.flatnonzero(self._verdicts.alive(first, end))
        table = pa.table({"ordinal": pa.array(rows + first, pa.int64())})
        played = {step.layer: step for step in steps if step.layer}
        wanted = [self.plan.layer_of(c) for c in sorted(columns) if c != "ordinal"]
        for layer in dict.fromkeys([*played, *wanted]):
            names = [c for c in layer.columns if c in columns]
            if not len(rows):
                empty = pa.schema([layer.schema.field(name) for name in names]).empty_table()
                table = pa.table([*table.columns, *empty.columns], names=[*table.column_names, *names])
                continue
            held = self._blocks.read(layer, block, [*names, *(["failure"] if layer in played else [])])
            places, lacks = segment.places(held["ordinal"].to_numpy() - first, rows, end - first)
            if places is not None:
                held = held.combine_chunks().take(places)
            for name in names:
                table = table.append_column(name, held[name])
            if layer in played:
                k = played[layer].index
                table = table.append_column(f"pairsift lacks {k}", pa.array(lacks))
                table = table.append_column(f"pairsift failed {k}", held["failure"].is_valid())
        return table

    def _select(self, step: Step) -> None:
        entry = step.entry
        assert isinstance(entry, Selector)
        if dealt.dealable(entry) and (partitions := self._partitions()) > 1:
            self._select_dealt(step, partitions)
            return
        if isinstance(entry, Finder):
            tables = self._pool.each(lambda block: self._selected(block, step))
            self._note(step, finding.found(entry, tables, f"{self._spill}/found", self._pool.check))
            return
        begin = 'CREATE OR REPLACE TEMP TABLE "rows" AS'
        tables = self._pool.each(lambda block: self._selected(block, step))
        for rows in segment.together(tables, int(_SHARE_AT_ONCE * self._own_memory)):
            self.con.register("block", rows)
            database.execute(self.con, f"{begin} SELECT * FROM block")
            self.con.unregister("block")
            begin = 'INSERT INTO "rows"'
            machine.give_back()  # what reading took
        if not self._blocks.count:
            return
        columns = "ordinal::BIGINT AS ordinal, duplicate_of::BIGINT AS duplicate_of, score::DOUBLE AS score"
        database.execute(self.con, f"CREATE OR REPLACE TEMP TABLE gone AS SELECT {columns} FROM ({entry.reduce()})")
        self._note(step, self.con.sql("FROM gone").to_arrow_reader(_ROWS_AT_ONCE))
        self.con.execute('DROP TABLE "rows"; DROP TABLE gone')

    def _partitions(self) -> int:
        """How many partitions a selector's work is dealt out to now; 1: it is not."""
        if self._deal is None or not self._blocks.count:
            return 1
        return self._deal.partitions(self.plan.config, self._verdicts.counts().get(ALIVE, 0))

    def _select_dealt(self, step: Step, partitions: int) -> None:
        assert self._deal is not None
        entry, work = step.entry, self._ledger.work
        plain = not isinstance(entry, Finder)
        load = LedgerRows(work.uri, tuple(self._generations), self.rows, self._columns(step), plain)
        parts = Parts(self._blocks, lambda block: self._rows_for(block, step))
        with dealt.scratch(work, self._spill) as folder:
            given = (load, parts, self._deal, partitions, Exchange(work, f"{folder}/rows"), self._memory)
            tables = dealt.find(entry, *given) if isinstance(entry, Finder) else dealt.select(_shares(entry), *given)
            self._note(step, (batch for table in tables for batch in table.to_batches()))

    def _note(self, step: Step, gone: Iterable[pa.RecordBatch]) -> None:
        """Mark what a selector takes out; `gone` has ordinal, duplicate_of, score."""
        for batch in gone:
            ordinals, keepers, scores = batch.columns
            self._verdicts.set(ordinals.to_numpy(), stopped(step.index), scores, keepers)
        self._share(step)

    def _share(self, step: Step) -> None:
        """Give a selector's verdicts to the rows that repeat others which failed further on."""
        sharing = self._retries.sharing(step.index)
        originals, ordinals = self._retries.originals[sharing], self._retries.ordinals[sharing]
        while True:  # once more where an original is a repeated row itself
            gone = (self._verdicts.marks[originals] == stopped(step.index)) & (self._verdicts.marks[ordinals] == ALIVE)
            if not gone.any():
                return
            self._verdicts.copy(originals[gone], ordinals[gone])

    def _selected(self, block: int, step: Step) -> pa.Table:
        """What a selector sees of a block."""
        rows = self._rows_for(block, step)
        table = read_rows(self._blocks, self._generations, self._columns(step), block, rows)
        return table if isinstance(step.entry, Finder) else segment.readable(table)

    def _rows_for(self, block: int, step: Step) -> Numbers:
        """The places in a block of the rows that a selector sees: alive, and no repeated ones that share another's verdict."""
        first, end = self._blocks.bounds[block]
        alive = self._verdicts.alive(first, end)
        if len(self._retries.ordinals):
            sharing = self._retries.ordinals[self._retries.sharing(step.index)]
            alive[sharing[(sharing >= first) & (sharing < end)] - first] = False
        return np.flatnonzero(alive)

    def _columns(self, step: Step) -> Columns:
        """The columns that a selector reads, by layer."""
        found: dict[Layer, list[str]] = {}
        for name in sorted(set(step.entry.reads()) - {schema.ORDINAL.name}):
            found.setdefault(self.plan.layer_of(name), []).append(name)
        return tuple((layer, tuple(names)) for layer, names in found.items())


def _shares(entry: object) -> Shares:
    assert isinstance(entry, Selector)
    shares = entry.shares()
    assert shares is not None
    return shares


def _spill_folder(work: Folder) -> str:
    """A folder for what does not fit in memory; it is made when it is needed. DuckDB gives its files the same names in every
    process, so each cut has one of its own."""
    return f"{work.uri if work.local else tempfile.gettempdir()}/spill-{uuid.uuid4().hex[:12]}"
