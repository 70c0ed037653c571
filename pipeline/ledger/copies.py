"""Compact files: of the many small files that a layer has in a block, one.

    work/compact/LAYER/BLOCK-TOKEN.parquet    the rows of a layer's files in one block, by ordinal, without vectors

A compact file is a copy; its metadata names the files that it covers. Those never change, so the copy is never out of date:
it may only lack files that came later. Nothing but the cut reads copies, and they may be removed at any time.
"""

import json
import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.layers import UNITS_PER_FOLDER, Layer
from pairsift.stages import schema
from pairsift.stages.storage import Folder

BLOCK_ROWS = 1 << 15  # most rows in a block, unless a unit has more; some blocks are held in memory by their columns
LOOSE_FILES = 8  # that many more files of a block than its compact file covers, and they are compacted
_GROUP_ROWS = 1 << 15  # of a compact file, which are held while it is written
_COVERS = b"pairsift.covers"  # key of the metadata: JSON list of [unit, part]
# Larger than with zstd, and read in half the time. Without dictionaries, of which most columns are too varied, it is written
# in half the time, and URLs are read in less than half; ordinals, which rise by one, in a fifth.
_QUICK = {"compression": "lz4", "use_dictionary": False, "column_encoding": {schema.ORDINAL.name: "DELTA_BINARY_PACKED"}}

Part = tuple[int, int]  # unit, part


def units_of_block(unit_rows: int) -> int:
    """How many units a block has. It divides the units of a folder, so that one listing tells the files of a block."""
    wanted = max(1, BLOCK_ROWS // unit_rows)
    return next(n for n in range(min(wanted, UNITS_PER_FOLDER), 0, -1) if UNITS_PER_FOLDER % n == 0)


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column's values are embeddings, or other lists of one length."""
    return bool(pa.types.is_fixed_size_list(kind))


def copied(layer: Layer) -> list[str]:
    """The columns that a layer's compact files have."""
    return [field.name for field in layer.schema if not is_vector(field.type)]


class Copies:
    """The compact files of a work folder. May be used from several threads."""

    def __init__(self, work: Folder) -> None:
        self._work = work
        self._names: dict[str, dict[int, list[str]]] = {}  # by layer and block
        self._lock = threading.Lock()

    def best(self, layer: Layer, block: int, parts: Sequence[Part]) -> tuple[str | None, set[Part]]:
        """The compact file that covers most of these parts, and nothing else, and what it covers. Others are removed where
        they cover what is not there: a file was removed, and what replaces it may say something else."""
        there = set(parts)
        best: tuple[str | None, set[Part]] = None, set()
        for name in self._names_of(layer).get(block, []):
            covers: set[Part] = set()
            with suppress(OSError, ValueError, pa.ArrowInvalid):
                covers = self._covers(name)
            if not covers <= there:
                self.remove(name)
            elif len(covers) > len(best[1]):
                best = name, covers
        return best

    def read(self, layer: Layer, name: str, columns: list[str]) -> pa.Table:
        """Raises OSError or ArrowInvalid for a damaged one."""
        data = pa.BufferReader(self._work.read(name))
        wanted = pa.schema([layer.schema.field(column) for column in columns])
        file = pq.ParquetFile(data, page_checksum_verification=True)
        return file.read(columns, use_threads=False).select(columns).cast(wanted)

    def write(self, layer: Layer, block: int, tables: Iterable[pa.Table], covers: Iterable[Part]) -> str | None:
        """Write the `copied` columns of these tables, which are in order, in place of the block's older compact files.
        Returns its name; None where it cannot be written: a work folder that may only be read, a full disk."""
        with suppress(OSError), CopyWriter(self._work, layer, block) as writer:
            for table in tables:
                writer.add(table)
            name = writer.finish(covers)
            with self._lock:
                names = self._names[layer.name]
                older, names[block] = names.get(block, []), [name]
            for other in older:
                self.remove(other)
            return name
        return None

    def remove(self, name: str) -> None:
        with suppress(OSError):
            self._work.remove(name)

    def remove_from(self, layer: Layer, block: int) -> None:
        """Remove the layer's compact files of this block and those behind it."""
        for later, names in self._names_of(layer).items():
            for name in names if later >= block else ():
                self.remove(name)

    def _covers(self, name: str) -> set[Part]:
        with self._work.filesystem.open(self._work.path(name), "rb") as file:
            metadata = pq.ParquetFile(file).metadata.metadata
        return set(map(tuple, json.loads(metadata[_COVERS])))

    def _names_of(self, layer: Layer) -> dict[int, list[str]]:
        """The layer's compact files by block."""
        with self._lock:
            if layer.name not in self._names:
                found: dict[int, list[str]] = {}
                for name in self._work.names(f"compact/{layer.name}"):
                    found.setdefault(int(name.partition("-")[0]), []).append(f"compact/{layer.name}/{name}")
                self._names[layer.name] = found
            return self._names[layer.name]


class CopyWriter:
    """Writes one compact file row group by row group. Leave the block without `finish`, and nothing is there."""

    def __init__(self, work: Folder, layer: Layer, block: int) -> None:
        self._columns = copied(layer)
        self._name = f"compact/{layer.name}/{block:06d}-{uuid.uuid4().hex[:12]}.parquet"
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._file = ExitStack()
        options = {"store_schema": False, "write_page_checksum": True, **_QUICK}
        columns = pa.schema([layer.schema.field(column) for column in self._columns])
        self._writer = pq.ParquetWriter(self._file.enter_context(work.create(self._name)), columns, **options)

    def __enter__(self) -> "CopyWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(_Unfinished), self._file:
            with suppress(OSError):
                self._writer.close()  # else it would do so when it is collected, on a file that is closed
            raise _Unfinished

    def add(self, table: pa.Table) -> None:
        """Append rows of the layer."""
        self._waiting.append(table.select(self._columns))
        self._rows += len(table)
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def finish(self, covers: Iterable[Part]) -> str:
        """Publish the file; returns its name."""
        self._flush()
        self._writer.add_key_value_metadata({_COVERS: json.dumps(sorted(covers))})
        self._writer.close()
        self._file.close()
        return self._name

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._rows = [], 0


class IntakeCopies:
    """Compact files of layer 0 while it is taken in, from a unit on: else the first cut would have to read its files again."""

    def __init__(self, work: Folder, layer: Layer, unit_rows: int, first_unit: int) -> None:
        """Removes those of an intake that was cut short: its units may be written anew with other rows."""
        self._work, self._layer, self._size = work, layer, units_of_block(unit_rows)
        Copies(work).remove_from(layer, first_unit // self._size)
        self._units: list[int] = []  # in the open file
        self._open: CopyWriter | None = None

    def __enter__(self) -> "IntakeCopies":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(publish=kind is None)

    def add(self, unit: int, table: pa.Table) -> None:
        """A unit that was just written. What cannot be copied is left to the cut."""
        if self._size <= LOOSE_FILES:
            return
        block, place = divmod(unit, self._size)
        with suppress(OSError):
            if place == 0:
                self._end(publish=True)
                self._open = CopyWriter(self._work, self._layer, block)
            if self._open:
                self._open.add(table)
                self._units.append(unit)
                return
        self._end(publish=False)

    def _end(self, *, publish: bool) -> None:
        writer, units = self._open, self._units
        self._open, self._units = None, []
        if writer:
            with suppress(OSError), writer:
                if publish and len(units) > LOOSE_FILES:
                    writer.finish((unit, 0) for unit in units)


class _Unfinished(Exception):  # noqa: N818 - it never leaves this module
    """Has a file discarded that is not whole."""
