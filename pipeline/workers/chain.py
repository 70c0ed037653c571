"""One worker's share of the plan: takes a unit through consecutive steps, and commits a layer for each stage.

A unit is a table of all its rows. Rows that are dead travel on as tombstones: transforms see only rows that are alive,
cut into sub-batches that depend on nothing but the unit, and their results are scattered back.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.cut.verdicts import UNREAD
from pairsift.pipeline.ledger.freed import FreedImages
from pairsift.pipeline.ledger.intake import Generation, read_generations, unit_rows
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers, merge, part_path, scatter
from pairsift.pipeline.ledger.tombstones import Tombstones
from pairsift.pipeline.plan import Step
from pairsift.pipeline.workers.answers import checked, counted
from pairsift.pipeline.workers.calls import Calls
from pairsift.pipeline.workers.reports import StageReport, UnitReport
from pairsift.pipeline.workers.span import Span, mask_path
from pairsift.pipeline.workers.unit import Unit
from pairsift.stages import schema, sql
from pairsift.stages.base import Filter, Selector
from pairsift.stages.devices import DeviceLostError
from pairsift.stages.fates import Failure

BATCH_BYTES = 64 << 20  # most bytes of images in one sub-batch
DEATHS_BEFORE_ISOLATION = 2  # attempts at a unit that never ended, before it is worked on in a child process


class Chain:
    """Opened once per worker; `process` may be called for several units at once on one event loop."""

    def __init__(self, span: Span, *, replaceable: bool = False) -> None:
        """`replaceable`: where this process dies, another one does its units again."""
        self._span = span
        self._ledger = Ledger(span.plan.config.work)
        self._generations: list[Generation] = read_generations(self._ledger)
        self._tombstones = Tombstones.load(self._ledger.work)
        images = [step for step in span.plan.steps if step.layer and step.makes_images]
        self._freed = {step.index: FreedImages(self._ledger.work, _layer(step).name) for step in images}
        self._stack = ExitStack()
        self._calls = Calls(self._stack, replaceable=replaceable)

    def __enter__(self) -> "Chain":
        """Raises FencedError where another run holds the work folder."""
        if self._span.fence:
            self._stack.enter_context(self._span.fence.inside())
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    async def process(self, number: int, passed: Unit | None = None) -> tuple[Unit, UnitReport]:
        """Take one unit through the span's steps. `passed` is the unit as an earlier chain left it."""
        plan = self._span.plan
        unit = passed or self._load(number)
        report = UnitReport(number, len(unit.table))
        for step in plan.steps[0 if passed is None else self._span.start : self._span.end]:
            if isinstance(step.entry, Filter):
                self._filter(unit, step, report)
            elif isinstance(step.entry, Selector):
                self._apply_mask(unit, step.index)
            elif step.index < self._span.start:
                self._replay(unit, step)
            else:
                await self._compute(unit, step, report)
        return unit, report

    def _load(self, number: int) -> Unit:
        plan = self._span.plan
        table = self._ledger.read(plan.intake, number, self._needed(plan.intake, 0))
        first, end = unit_rows(self._generations, number)
        if table is None or len(table) != end - first:
            path = self._ledger.work.path(part_path(plan.intake, number, 0))
            raise OSError(f"{path}: lacks rows of the input, or is missing; `pairsift check` says what to do")
        alive = table["failure"].combine_chunks().is_null().to_numpy(zero_copy_only=False)
        if self._span.limit is not None:
            alive &= table["ordinal"].to_numpy() < self._span.limit
        unit = Unit(number, table.drop_columns(["failure"]), alive)
        if self._tombstones:
            self._apply_mask(unit, UNREAD)
        return unit

    def _needed(self, layer: Layer, after: int) -> list[str]:
        """The layer's columns that steps from `after` on will read in this chain, or pass on."""
        wanted = {column for step in self._span.plan.steps[after:] for column in step.entry.reads()}
        if schema.IMAGE.name in wanted:
            wanted |= {f.name for f in schema.IMAGE_REFERENCE}
        return [column for column in layer.columns if column in wanted or column == schema.KEY.name]

    def _filter(self, unit: Unit, step: Step, report: UnitReport) -> None:
        entry = step.entry
        assert isinstance(entry, Filter)
        rows = np.flatnonzero(unit.alive)
        if len(rows):
            names = {"ordinal", *entry.reads()}  # a table without columns would have no rows either
            table = unit.table.select([c for c in unit.table.column_names if c in names]).take(pa.array(rows))
            kept = sql.evaluate(entry.predicate(), table).to_numpy(zero_copy_only=False)
            unit.alive[rows] = kept
            if step.index >= self._span.start:  # else another chain has counted it
                report.rules[step.label] = (len(rows), len(rows) - int(np.count_nonzero(kept)))

    def _apply_mask(self, unit: Unit, step: int) -> None:
        end = unit.first + len(unit.table)
        bounds = [("ordinal", ">=", unit.first), ("ordinal", "<", end)]
        work = self._ledger.work
        file, system = work.path(mask_path(step)), None if work.local else work.filesystem
        dead = pq.read_table(file, columns=["ordinal"], filters=bounds, filesystem=system, use_threads=False)[
            "ordinal"
        ].to_numpy()
        unit.alive[dead - unit.first] = False

    def _replay(self, unit: Unit, step: Step) -> None:
        layer = _layer(step)
        table = self._ledger.read(layer, unit.number, self._needed(layer, step.index + 1))
        if table is not None:
            self._absorb(unit, step, table)

    def _absorb(self, unit: Unit, step: Step, table: pa.Table) -> None:
        """Scatter a layer's rows into the unit; rows that failed, and rows that the layer lacks, die."""
        rows = table["ordinal"].to_numpy() - unit.first
        for field_ in _layer(step).schema:
            if field_.name in table.column_names and field_.name not in ("ordinal", "failure", "failure_detail"):
                unit.set(field_, scatter(rows, table[field_.name], len(unit.table)))
        fine = np.zeros(len(unit.table), bool)
        fine[rows] = table["failure"].combine_chunks().is_null().to_numpy(zero_copy_only=False)
        if step.makes_images:
            fine[self._freed[step.index].between(unit.first, unit.first + len(fine)) - unit.first] = False
        unit.alive &= fine

    async def _compute(self, unit: Unit, step: Step, report: UnitReport) -> None:
        layer = _layer(step)
        done = self._ledger.read(layer, unit.number, layer.columns + ("failure_detail",))
        missing = unit.alive.copy()
        if done is not None:
            done = done.select(layer.schema.names)
            missing[done["ordinal"].to_numpy() - unit.first] = False
        rows = np.flatnonzero(missing)
        if len(rows):
            deaths = self._ledger.begin_attempt(layer, unit.number)
            try:
                new = await self._run(unit, step, rows, deaths, report)
                if self._span.fence:
                    self._span.fence.check()
                done = self._commit(unit, layer, done, new)
            finally:  # an exception is no death: the process lives, and the attempt has ended
                self._ledger.end_attempt(layer, unit.number)
        if done is not None:
            wanted = self._needed(layer, step.index + 1)
            self._absorb(unit, step, done.select(["ordinal", *wanted, "failure"]))

    def _commit(self, unit: Unit, layer: Layer, done: pa.Table | None, new: pa.Table) -> pa.Table:
        """Publish new rows; returns all that the layer holds of the unit."""
        if self._ledger.commit(layer, unit.number, new):
            return merge(done, new)
        # An orphan of a killed run was first with some of them. What it said stands, and its images go with it.
        if schema.IMAGE.name in unit.table.column_names and schema.IMAGE_PATH.name in layer.columns:
            unit.table = unit.table.drop_columns([schema.IMAGE.name])
        there = self._ledger.read(layer, unit.number, layer.columns + ("failure_detail",))
        assert there is not None
        return there.select(layer.schema.names)

    async def _run(self, unit: Unit, step: Step, rows: Numbers, deaths: int, report: UnitReport) -> pa.Table:
        """The stage's results for `rows` as its layer holds them."""
        isolated = deaths >= DEATHS_BEFORE_ISOLATION
        try:
            parts, seconds, counts = await self._answers(unit, step, rows, isolated=isolated)
        except DeviceLostError:  # of this process: from its first row on, another one does the unit
            parts, seconds, counts = await self._answers(unit, step, rows, isolated=True)
        result = pa.concat_tables(parts)
        result = _without(self._tombstones.mask(result), result)
        stats = report.stages.setdefault(_layer(step).name, StageReport())
        stats.computed += len(rows)
        stats.failed += len(rows) - result["failure"].null_count
        stats.failures = dict(Counter(result["failure"].drop_null().to_pylist()))
        stats.deaths, stats.counts = deaths, dict(counts)
        stats.seconds += seconds
        stats.ended = time.time()
        if step.makes_images:
            result = self._store_images(unit, step, rows, result, stats)
        ordinals = pa.chunked_array([pa.array(rows + unit.first, pa.int64())])
        arrays = [ordinals if name == "ordinal" else result[name] for name in _layer(step).schema.names]
        return pa.table(arrays, schema=_layer(step).schema).combine_chunks()  # only here: images would be copied

    async def _answers(
        self, unit: Unit, step: Step, rows: Numbers, *, isolated: bool
    ) -> tuple[list[pa.Table], float, Counter[str]]:
        """What the stage says of each sub-batch, the seconds it took, and what it counted."""
        parts, seconds, counts = [], 0.0, Counter[str]()
        async with self._calls.function(step, isolated=isolated) as function:
            for batch in self._batches(unit, step, rows):
                result, taken = await function(batch)
                seconds += taken
                parts.append(checked(step, batch, result))
                counts.update(counted(result))
        return parts, seconds, counts

    def _store_images(self, unit: Unit, step: Step, rows: Numbers, result: pa.Table, stats: StageReport) -> pa.Table:
        keys = unit.table["key"].take(pa.array(rows)).to_pylist()
        formats = result["image_format"].to_pylist()
        references = self._ledger.write_payload(_layer(step), unit.number, keys, formats, result["image"])
        stats.bytes += sum(length or 0 for length in references["image_length"].to_pylist())
        if any("image" in later.entry.reads() for later in self._span.plan.steps[step.index + 1 : self._span.horizon]):
            unit.set(schema.IMAGE, scatter(rows, result["image"], len(unit.table)))
        for name in references.column_names:
            result = result.append_column(name, references[name])
        return result

    def _batches(self, unit: Unit, step: Step, rows: Numbers) -> Iterator[pa.Table]:
        """Sub-batches of `rows`, bounded in rows and bytes, with `ordinal` and the columns that the stage reads."""
        names = [name for name in dict.fromkeys(("ordinal", *step.entry.reads())) if name != "image"]
        columns = unit.table.select(names)
        needs_image = "image" in step.entry.reads()
        for part in _cut(rows, self._lengths(unit) if needs_image else None, step.stage.batch_rows):
            batch = columns.take(pa.array(part)).combine_chunks()
            yield batch.append_column(schema.IMAGE, self._images(unit, part)) if needs_image else batch

    @staticmethod
    def _lengths(unit: Unit) -> Numbers:
        lengths: Numbers = unit.table["image_length"].fill_null(0).to_numpy()
        return lengths

    def _images(self, unit: Unit, rows: Numbers) -> pa.Array:
        """Bytes that travelled with the unit, or the stored ones."""
        if "image" in unit.table.column_names:
            images = unit.table["image"].take(pa.array(rows))
            images = images.chunk(0) if images.num_chunks == 1 else images.combine_chunks()
            if images.null_count == 0:
                return images
        references = unit.table.select(["image_path", "image_offset", "image_length"])
        return self._ledger.read_images(references.take(pa.array(rows)))


def _without(removed: Numbers, result: pa.Table) -> pa.Table:
    """A transform's answer, with nothing left of the rows whose hash has a tombstone."""
    if not removed.any():
        return result
    taken = result.take(pa.array(np.arange(len(result)), mask=removed))
    failures = pc.if_else(pa.array(removed), Failure.REMOVED.value, taken["failure"])
    return taken.set_column(taken.column_names.index("failure"), "failure", failures)


def _layer(step: Step) -> Layer:
    assert step.layer is not None
    return step.layer


def _cut(rows: Numbers, lengths: Numbers | None, most: int) -> Iterator[Numbers]:
    """Runs of at most `most` rows and, by `lengths`, at most BATCH_BYTES bytes (always at least one row)."""
    start = 0
    while start < len(rows):
        end = min(start + most, len(rows))
        if lengths is not None:
            fits = int(np.searchsorted(np.cumsum(lengths[rows[start:end]]), BATCH_BYTES, "right"))
            end = start + max(1, min(fits, end - start))
        yield rows[start:end]
        start = end
