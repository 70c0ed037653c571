"""The fates that a cut comes to: one row for each row of the input."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.cut import fate_table
from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.cut.pool import Pool
from pairsift.pipeline.cut.verdicts import SET_ASIDE, UNREAD, Verdicts
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Ledger, Numbers
from pairsift.pipeline.ledger.retry import Retries
from pairsift.pipeline.pack.places import Numbering, shard_keys
from pairsift.pipeline.pack.sizes import sample_blocks
from pairsift.pipeline.plan import Plan
from pairsift.pipeline.sections import Shards
from pairsift.stages import schema
from pairsift.stages.fates import Failure

_ROWS_PER_BATCH = 1 << 16


class Fates:
    """Reads verdicts, and of the ledger's blocks what fates tell of a row."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        generations: Sequence[Generation],
        blocks: Blocks,
        verdicts: Verdicts,
        retries: Retries,
        pool: Pool,
    ) -> None:
        self._plan, self._ledger, self._generations, self._blocks = plan, ledger, generations, blocks
        self._verdicts, self._retries, self._pool = verdicts, retries, pool
        self._rows = verdicts.rows
        self._left_out = retries.left_out(self._rows) if len(retries.ordinals) else None
        self._held: Numbers = np.empty(0, np.int64)

    def batches(self, shards: Shards, held: Numbers) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """One row per input row, in ordinal order, with FATES' columns, and beside it the step where each row stopped
        (null: kept, -1: not read). The places of the rows `held`, rising ordinals, are left empty."""
        self._held = held
        numbers = self._numbering(shards) if self._plan.packs else None
        for block, columns in enumerate(self._pool.each(self._fates_of)):
            first, end = self._blocks.bounds[block]
            kept = self._verdicts.alive(first, end)
            names = numbers.take(self._placed(first, end) | shards.lists_all) if numbers else pa.nulls(len(kept), pa.string())
            if len(self._held):
                names = pc.if_else(pa.array(kept | shards.lists_all), names, None)
            table = pa.table([*columns, names], schema=FATES)
            stops, start = self._stops(first, end), 0
            if self._left_out is not None:
                there = pa.array(~self._left_out[first:end])
                table, stops = table.filter(there).combine_chunks(), stops.filter(there)
            for batch in table.to_batches(_ROWS_PER_BATCH):
                yield batch, stops.slice(start, len(batch))
                start += len(batch)

    def _numbering(self, shards: Shards) -> Numbering:
        seed, keys = shards.shuffle_seed, None
        bounds = [(min(g.first_ordinal, self._rows), min(g.end_ordinal, self._rows)) for g in self._generations]
        kept = [end - first if shards.lists_all else int(self._placed(first, end).sum()) for first, end in bounds]
        if seed is not None:
            keys = np.concatenate([np.empty(0, np.uint64), *self._pool.each(lambda block: self._shard_keys(block, seed))])
        return Numbering(shards, kept, keys, self._sample_blocks() if shards.max_bytes else ())

    def _shard_keys(self, block: int, seed: int) -> Numbers:
        """Of a block's rows that are kept."""
        uids = self._blocks.read(self._plan.intake, block, ["uid"])["uid"]
        return shard_keys(seed, uids.filter(pa.array(self._placed(*self._blocks.bounds[block]))).to_pylist())

    def _sample_blocks(self) -> Iterator[Numbers]:
        for first, end in self._blocks.bounds:
            ordinals = np.flatnonzero(self._placed(first, end)) + first
            for sizes in sample_blocks(self._plan, self._ledger, ordinals):
                self._pool.check()
                yield sizes

    def _fates_of(self, block: int) -> list[Any]:
        """A block's columns of FATES, but for the last."""
        first, end = self._blocks.bounds[block]
        url = [schema.URL.name] if schema.URL.name in self._plan.intake.columns else []
        intake = self._blocks.read(self._plan.intake, block, ["uid", *url])
        stops = self._stops(first, end)
        codes, details = self.failures(block, stops)
        steps = self._plan.steps
        ordinals = pa.array(np.arange(first, end))
        return [
            *(ordinals, self._keys(ordinals), intake["uid"], intake["url"] if url else pa.nulls(end - first, pa.string())),
            *(fate_table.statuses(stops, codes, steps), codes, details, fate_table.labels(stops, steps)),
            *(self._verdicts.scores(first, end), self._keys(self._verdicts.keepers(first, end))),
        ]

    def _keys(self, ordinals: pa.Array) -> pa.Array:
        return fate_table.keys(self._retries.keys(ordinals))

    def _stops(self, first: int, end: int) -> pa.Array:
        """int16: the step where each row ended, UNREAD, or null for rows that are alive, or set aside."""
        stops = self._verdicts.stops(first, end)
        return stops if self._left_out is None else pc.if_else(pc.equal(stops, pa.scalar(SET_ASIDE, pa.int16())), None, stops)

    def failures(self, block: int, stops: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Code and message of the rows that failed; null elsewhere."""
        first, end = self._blocks.bounds[block]
        steps = stops.fill_null(len(self._plan.steps)).to_numpy()
        layers = {UNREAD: self._plan.intake, **{s.index: s.layer for s in self._plan.steps if s.layer}}
        rows, found = [], []
        for step in np.unique(steps).tolist():
            if step in layers:
                table = self._blocks.read(layers[step], block, ["failure", "failure_detail"])
                # What had come through, and ended there all the same.
                since = Failure.REMOVED if step == UNREAD else Failure.IMAGE_FREED
                table = table.set_column(1, "failure", table["failure"].fill_null(since.value))
                places = table["ordinal"].to_numpy() - first
                here = steps[places] == step
                rows.append(places[here])
                found.append(table.filter(pa.array(here)))
        if not found:
            return pa.nulls(end - first, pa.string()), pa.nulls(end - first, pa.string())
        indices = np.full(end - first, -1, np.int64)
        indices[np.concatenate(rows)] = np.arange(sum(map(len, rows)))
        both = pa.concat_tables([t.select(["failure", "failure_detail"]) for t in found])
        taken = both.combine_chunks().take(pa.array(indices, mask=indices < 0))
        return taken["failure"].combine_chunks(), taken["failure_detail"].combine_chunks()

    def _placed(self, first: int, end: int) -> Numbers:
        """bool, for ordinals [first, end): the row has a place in a shard, if only an empty one."""
        placed = self._verdicts.alive(first, end)
        start, stop = np.searchsorted(self._held, [first, end])
        placed[self._held[start:stop] - first] = True
        return placed
