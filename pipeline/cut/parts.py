"""The rows that a selector sees, in parts that may be read by any process."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa

from pairsift.pipeline.cut import segment
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers

_ROWS_OF_A_PART = 1 << 20  # about: as many blocks as have so many rows

Columns = tuple[tuple[Layer, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Part:
    """Some neighbouring blocks, and of each the rows that are alive: a bit for each row, compressed."""

    blocks: tuple[int, ...]
    alive: tuple[bytes, ...]


class Parts(Sequence[Part]):
    """All rows that are alive; a part is made when it is asked for."""

    def __init__(self, blocks: Blocks, alive: Callable[[int], Numbers]) -> None:
        """`alive`: the places in a block of the rows that are."""
        self._bounds, self._alive = blocks.bounds, alive
        largest = max((end - first for first, end in self._bounds), default=1)
        size = max(1, _ROWS_OF_A_PART // largest)
        self._starts = range(0, len(self._bounds), size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Part: ...

    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...

    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        start = self._starts[index]
        blocks = range(start, min(start + self._starts.step, len(self._bounds)))
        return Part(tuple(blocks), tuple(map(self._bits, blocks)))

    def _bits(self, block: int) -> bytes:
        first, end = self._bounds[block]
        mask = np.zeros(end - first, bool)
        mask[self._alive(block)] = True
        return zlib.compress(np.packbits(mask).tobytes(), 1)


@dataclass(frozen=True)
class LedgerRows:
    """Reads parts, in any process that sees the work folder."""

    work: str
    generations: tuple[Generation, ...]
    rows: int
    columns: Columns
    plain: bool = True  # types as DuckDB reads them; false: as the layers have them

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_blocks"}

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks(Ledger(self.work), list(self.generations), self.rows)

    def __call__(self, part: Part) -> Iterator[pa.Table]:
        """`ordinal`, the columns and `generation` of the part's rows, a table for each block, in order."""
        for block, bits in zip(part.blocks, part.alive, strict=True):
            first, end = self._blocks.bounds[block]
            mask = np.unpackbits(np.frombuffer(zlib.decompress(bits), np.uint8), count=end - first)
            table = read_rows(self._blocks, self.generations, self.columns, block, np.flatnonzero(mask))
            yield segment.readable(table) if self.plain else table


def read_rows(blocks: Blocks, generations: Sequence[Generation], columns: Columns, block: int, rows: Numbers) -> pa.Table:
    """`ordinal`, the columns and `generation` of a block's rows; `rows` are places in the block, in order."""
    first, end = blocks.bounds[block]
    table = pa.table({"ordinal": pa.array(rows + first, pa.int64())})
    for layer, names in columns:
        if not len(rows):
            table = pa.table([*table.columns, *(_none(layer, name) for name in names)], [*table.column_names, *names])
            continue
        held = blocks.read(layer, block, names)
        places, _ = segment.places(held["ordinal"].to_numpy() - first, rows, end - first)
        if places is not None:
            held = held.combine_chunks().take(places)
        for name in names:
            table = table.append_column(name, held[name])
    ends = [g.end_ordinal for g in generations]
    numbers = np.array([g.number for g in generations])
    return table.append_column("generation", pa.array(numbers[np.searchsorted(ends, rows + first, "right")], pa.int64()))


def _none(layer: Layer, name: str) -> pa.Array:
    return pa.array([], layer.schema.field(name).type)
