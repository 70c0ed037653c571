"""The ledger in blocks, as the cut reads it: stretches of units with about a million rows, of many small files one made.

    work/compact/LAYER/BLOCK-TOKEN.parquet    the rows of a layer's files in one block, by ordinal, without vectors

A compact file is a copy; its metadata names the files that it covers. Those never change, so the copy is never out of date:
it may only lack files that came later, which are read beside it until they are many. Nothing but the cut reads copies, and
they may be removed at any time.
"""

import json
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.intake import Generation, unit_rows
from pairsift.pipeline.ledger.layers import UNITS_PER_FOLDER, Layer, Ledger

BLOCK_ROWS = 1 << 20  # most rows in a block, unless a unit has more; a block is held in memory by its columns
LOOSE_FILES = 32  # that many more files of a block than its compact file covers, and they are compacted
_COVERS = b"pairsift.covers"  # key of the metadata: JSON list of [unit, part]

Part = tuple[int, int]  # unit, part


class Blocks:
    """The first `rows` rows of a work folder. `count` blocks cover all their ordinals, in order, without gaps.

    May be used from several threads. Files that are committed meanwhile may be seen or not.
    """

    def __init__(self, ledger: Ledger, generations: list[Generation], rows: int) -> None:
        self._ledger, self._generations, self._rows = ledger, generations, rows
        self._units = sum(g.units for g in generations)
        wanted = max(1, BLOCK_ROWS // max((g.unit_rows for g in generations), default=1))
        # It divides the units of a folder, so that one listing tells the files of a block.
        self._size = next(n for n in range(min(wanted, UNITS_PER_FOLDER), 0, -1) if UNITS_PER_FOLDER % n == 0)
        self.bounds = self._bounds()
        self._listed = lru_cache(maxsize=64)(self._list_folder)
        self._copies: dict[str, dict[int, list[str]]] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        return len(self.bounds)

    def _bounds(self) -> list[tuple[int, int]]:
        """[first, end) ordinals of each block."""
        found = []
        for first in range(0, self._units, self._size):
            last = min(first + self._size, self._units) - 1
            bounds = unit_rows(self._generations, first)[0], unit_rows(self._generations, last)[1]
            if bounds[0] >= self._rows:
                break
            found.append((bounds[0], min(bounds[1], self._rows)))
        return found

    def read(self, layer: Layer, block: int, columns: Sequence[str]) -> pa.Table:
        """`ordinal` and these columns of the rows that a layer has in a block, by ordinal."""
        names = list(dict.fromkeys(["ordinal", *columns]))
        parts = self._parts(layer, block)
        table = None
        if len(parts) > LOOSE_FILES and not any(is_vector(layer.schema.field(name).type) for name in names):
            table = self._through_copy(layer, block, parts, names)
        if table is None:
            table = self._loose(layer, parts, names)
        _, end = self.bounds[block]
        return table if block + 1 < self.count else table.filter(pc.less(table["ordinal"], end))

    def _parts(self, layer: Layer, block: int) -> list[Part]:
        first = block * self._size
        end = min(first + self._size, self._units)
        return [part for part in self._listed(layer.name, first // UNITS_PER_FOLDER) if first <= part[0] < end]

    def _list_folder(self, layer: str, folder: int) -> list[Part]:
        return self._ledger.parts_in(layer, folder)

    def _loose(self, layer: Layer, parts: Sequence[Part], names: list[str]) -> pa.Table:
        tables = [self._ledger.read_part(layer, unit, part, names) for unit, part in parts]
        found = [table for table in tables if table is not None]
        schema = pa.schema([layer.schema.field(name) for name in names])
        return _by_ordinal(pa.concat_tables(found), parts) if found else schema.empty_table()

    def _through_copy(self, layer: Layer, block: int, parts: list[Part], names: list[str]) -> pa.Table | None:
        """The rows from the block's compact file and what it lacks; it is made anew where that is much. None where neither
        reading nor writing one works out: it is only a copy."""
        name, covers = self._copy(layer, block, parts)
        lacking = [part for part in parts if part not in covers]
        try:
            if len(lacking) > LOOSE_FILES:
                return self._compact(layer, block, name, covers, lacking).select(names)
            return self._joined(layer, name, lacking, names)
        except (OSError, pa.ArrowInvalid):
            if name is not None:
                with suppress(OSError):
                    self._ledger.work.remove(name)
            return None

    def _joined(self, layer: Layer, name: str | None, loose: list[Part], names: list[str]) -> pa.Table:
        """A compact file and loose ones, by ordinal."""
        if name is None:
            return self._loose(layer, loose, names)
        data = pa.BufferReader(self._ledger.work.read(name))
        wanted = pa.schema([layer.schema.field(column) for column in names])
        table = pq.ParquetFile(data, page_checksum_verification=True).read(names, use_threads=False).select(names).cast(wanted)
        if not loose:
            return table
        both = pa.concat_tables([table, self._loose(layer, loose, names)])
        return both.sort_by("ordinal")

    def _compact(self, layer: Layer, block: int, old: str | None, covers: set[Part], lacking: list[Part]) -> pa.Table:
        """Write a compact file of what the old one covers and what it lacks; returns its rows."""
        scalar = [field.name for field in layer.schema if not is_vector(field.type)]
        table = self._joined(layer, old, lacking, scalar).combine_chunks()
        sink = BytesIO()
        # Twice as large as with zstd, and read in half the time.
        options = {"compression": "snappy", "store_schema": False, "write_page_checksum": True}
        with pq.ParquetWriter(sink, table.schema, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({_COVERS: json.dumps(sorted([*covers, *lacking]))})
        name = f"compact/{layer.name}/{block:06d}-{uuid.uuid4().hex[:12]}.parquet"
        with suppress(OSError):  # a work folder that may only be read, a full disk
            self._ledger.work.write(name, sink.getvalue())
            with self._lock:
                older, self._copies[layer.name][block] = self._copies[layer.name].get(block, []), [name]
            for other in older:
                self._ledger.work.remove(other)
        return table

    def _copy(self, layer: Layer, block: int, parts: list[Part]) -> tuple[str | None, set[Part]]:
        """The compact file that covers most of these parts, and nothing else, and what it covers."""
        there = set(parts)
        best: tuple[str | None, set[Part]] = None, set()
        for name in self._copies_of(layer).get(block, []):
            covers: set[Part] = set()
            with suppress(OSError, ValueError, pa.ArrowInvalid):
                covers = self._covers(name)
            if not covers <= there:  # a file was removed, and what replaces it may say something else
                self._ledger.work.remove(name)
            elif len(covers) > len(best[1]):
                best = name, covers
        return best

    def _covers(self, name: str) -> set[Part]:
        with self._ledger.work.filesystem.open(self._ledger.work.path(name), "rb") as file:
            metadata = pq.ParquetFile(file).metadata.metadata
        return {(unit, part) for unit, part in json.loads(metadata[_COVERS])}

    def _copies_of(self, layer: Layer) -> dict[int, list[str]]:
        """The layer's compact files by block."""
        with self._lock:
            if layer.name not in self._copies:
                found: dict[int, list[str]] = {}
                for name in self._ledger.work.names(f"compact/{layer.name}"):
                    found.setdefault(int(name.partition("-")[0]), []).append(f"compact/{layer.name}/{name}")
                self._copies[layer.name] = found
            return self._copies[layer.name]


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column's values are embeddings, or other lists of one length."""
    return bool(pa.types.is_fixed_size_list(kind))


def _by_ordinal(table: pa.Table, parts: Sequence[Part]) -> pa.Table:
    """Rows of several files, which are in order by themselves. Only later parts of a unit are not behind what came before."""
    return table.sort_by("ordinal") if any(part for _, part in parts) else table
