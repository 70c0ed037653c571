"""What was removed on request, and must not come back: not from the ledger, not from new input files.

    work/tombstones/00000.parquet    kind (url, uid, sha256), value: one request to remove
    output/removed.json              the places in published shards that removed rows have left empty

A row with a tombstone is dead before the first step: the cut gives it the fate `removed`, and the workers never see it. A body
whose hash has a tombstone is dropped when it comes.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.layers import Numbers
from pairsift.pipeline.ledger.records import read_object, read_table
from pairsift.pipeline.plan import Plan
from pairsift.stages.storage import Folder

KINDS = ("url", "uid", "sha256")
SCHEMA = pa.schema([pa.field("kind", pa.string(), nullable=False), pa.field("value", pa.string(), nullable=False)])
_FOLDER, _HELD = "tombstones", "removed.json"


@dataclass(frozen=True)
class Tombstones:
    """All of a work folder's. True where there are any."""

    table: pa.Table

    @staticmethod
    def load(work: Folder) -> "Tombstones":
        tables = [read_table(work, f"{_FOLDER}/{name}") for name in work.names(_FOLDER)]
        return Tombstones(pa.concat_tables(tables) if tables else SCHEMA.empty_table())

    def __bool__(self) -> bool:
        return len(self.table) > 0

    @cached_property
    def _values(self) -> dict[str, pa.Array]:
        kinds = {kind: self.table.filter(pc.equal(self.table["kind"], kind))["value"].unique() for kind in KINDS}
        return {kind: values for kind, values in kinds.items() if len(values)}

    def columns(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(column, kind) of the columns that tell whether a row was removed. `as` may have put a prefix before `sha256`."""
        kinds = ((name, "sha256" if name.endswith("_sha256") else name) for name in names)
        return [(name, kind) for name, kind in kinds if kind in self._values]

    @staticmethod
    def of(tombstones: Iterable[tuple[str, str]]) -> "Tombstones":
        """Of (kind, value) pairs."""
        columns = [pa.array(values, pa.string()) for values in zip(*tombstones, strict=True)]
        return Tombstones(pa.table(columns, schema=SCHEMA) if columns else SCHEMA.empty_table())

    def pairs(self) -> set[tuple[str, str]]:
        """(kind, value) of each."""
        return set(zip(*(self.table[name].to_pylist() for name in SCHEMA.names), strict=True))

    def ordinals(self, blocks: Blocks, plan: Plan, block: int) -> Iterator[Numbers]:
        """Ordinals of a block's rows that have a tombstone, as each layer of a plan tells; nothing is read without any."""
        for layer in plan.layers:
            columns = [name for name, _ in self.columns(layer.columns)]
            if columns:
                table = blocks.read(layer, block, columns)
                yield table["ordinal"].to_numpy()[self.mask(table)]

    def mask(self, table: pa.Table) -> Numbers:
        """Which rows of a table have a tombstone by the columns that it has: bool, one per row."""
        found = pa.repeat(False, len(table))
        for name, kind in self.columns(table.column_names):
            found = pc.or_(found, pc.is_in(table[name].combine_chunks(), self._values[kind]))
        removed: Numbers = found.to_numpy(zero_copy_only=False)
        return removed


def held_places(output: Folder, cut: str) -> Numbers:
    """Ordinals, rising, of the rows that were removed from the shards of this cut: nobody takes their places, so that other
    shards stay as they are."""
    try:
        held = read_object(output, _HELD)
    except FileNotFoundError:
        held = {}
    return np.array(held["ordinals"] if held.get("cut") == cut else [], np.int64)


def hold_places(output: Folder, cut: str, ordinals: Numbers) -> None:
    """Add to them. Another cut's are forgotten."""
    every = np.union1d(held_places(output, cut), ordinals)
    output.write(_HELD, json.dumps({"cut": cut, "ordinals": every.tolist()}).encode())


def add(work: Folder, tombstones: Iterable[tuple[str, str]]) -> int:
    """Write one request's (kind, value) pairs, without those that are there already; returns how many are new. From then on
    the rows are dead, whatever else is still to be done."""
    new = sorted(set(tombstones) - Tombstones.load(work).pairs())
    if new:
        number = max((int(name.partition(".")[0]) for name in work.names(_FOLDER)), default=-1) + 1
        sink = BytesIO()
        pq.write_table(Tombstones.of(new).table, sink, compression="zstd")
        work.write(f"{_FOLDER}/{number:05d}.parquet", sink.getvalue())
    return len(new)
