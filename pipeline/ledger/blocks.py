"""The ledger in blocks, as the cut reads it: stretches of units with some ten thousand rows. Where a block has many small
files of a layer, they are read through a compact file: see `copies.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.copies import Copies, Part, copied, is_vector
from pairsift.pipeline.ledger.intake import Generation, unit_rows
from pairsift.pipeline.ledger.layers import UNITS_PER_FOLDER, Layer, Ledger


class Blocks:
    """The first `rows` rows of a work folder. `count` blocks cover all their ordinals, in order, without gaps.

    May be used from several threads. Files that are committed meanwhile may be seen or not.
    """

    def __init__(self, ledger: Ledger, generations: list[Generation], rows: int) -> None:
        self._ledger, self._generations, self._rows = ledger, generations, rows
        self._units = sum(g.units for g in generations)
        self._size = copies.units_of_block(max((g.unit_rows for g in generations), default=1))
        self.bounds = self._bounds()
        self._listed = lru_cache(maxsize=64)(self._list_folder)
        self._copies = Copies(ledger.work)

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

    def block_of(self, unit: int) -> int:
        return unit // self._size

    def read(self, layer: Layer, block: int, columns: Sequence[str]) -> pa.Table:
        """`ordinal` and these columns of the rows that a layer has in a block, by ordinal."""
        names = list(dict.fromkeys(["ordinal", *columns]))
        parts = self._parts(layer, block, self._listed)
        table = None
        if len(parts) > copies.LOOSE_FILES and not any(is_vector(layer.schema.field(name).type) for name in names):
            table = self._through_copy(layer, block, parts, names)
        if table is None:
            table = self._loose(layer, parts, names)
        _, end = self.bounds[block]
        return table if block + 1 < self.count else table.filter(pc.less(table["ordinal"], end))

    def compact(self, layer: Layer, block: int) -> None:
        """Have the block's files of a layer in a compact one, if they are many."""
        parts = self._parts(layer, block, self._list_folder)
        if len(parts) > copies.LOOSE_FILES:
            self._through_copy(layer, block, parts, ["ordinal"])

    def _parts(self, layer: Layer, block: int, listed: Callable[[str, int], list[Part]]) -> list[Part]:
        first = block * self._size
        end = min(first + self._size, self._units)
        return [part for part in listed(layer.name, first // UNITS_PER_FOLDER) if first <= part[0] < end]

    def _list_folder(self, layer: str, folder: int) -> list[Part]:
        return self._ledger.parts_in(layer, folder)

    def _loose(self, layer: Layer, parts: Sequence[Part], names: list[str]) -> pa.Table:
        found = list(self._each(layer, parts, names))
        schema = pa.schema([layer.schema.field(name) for name in names])
        return _by_ordinal(pa.concat_tables(found), parts) if found else schema.empty_table()

    def _each(self, layer: Layer, parts: Iterable[Part], names: list[str]) -> Iterator[pa.Table]:
        """The files, one after the other; of those that are gone meanwhile, nothing."""
        for unit, part in parts:
            table = self._ledger.read_part(layer, unit, part, names)
            if table is not None:
                yield table

    def _through_copy(self, layer: Layer, block: int, parts: list[Part], names: list[str]) -> pa.Table | None:
        """The rows from the block's compact file and what it lacks; it is made anew where that is much. None where neither
        reading nor writing one works out: it is only a copy."""
        name, covers = self._copies.best(layer, block, parts)
        lacking = [part for part in parts if part not in covers]
        try:
            if len(lacking) > copies.LOOSE_FILES:
                tables = self._in_order(layer, name, lacking)
                name, lacking = self._copies.write(layer, block, tables, [*covers, *lacking]), []
            return self._joined(layer, name, lacking, names) if name else None
        except (OSError, pa.ArrowInvalid):
            if name is not None:
                self._copies.remove(name)
            return None

    def _in_order(self, layer: Layer, name: str | None, loose: list[Part]) -> Iterator[pa.Table]:
        """What a compact file shall hold of an older one and loose files. One after the other where that is their order."""
        if name is None and not any(part for _, part in loose):
            return self._each(layer, loose, copied(layer))
        return iter([self._joined(layer, name, loose, copied(layer))])

    def _joined(self, layer: Layer, name: str | None, loose: list[Part], names: list[str]) -> pa.Table:
        """A compact file and loose ones, by ordinal."""
        if name is None:
            return self._loose(layer, loose, names)
        table = self._copies.read(layer, name, names)
        return pa.concat_tables([table, self._loose(layer, loose, names)]).sort_by("ordinal") if loose else table


def _by_ordinal(table: pa.Table, parts: Sequence[Part]) -> pa.Table:
    """Rows of several files, which are in order by themselves. Only later parts of a unit are not behind what came before."""
    return table.sort_by("ordinal") if any(part for _, part in parts) else table
