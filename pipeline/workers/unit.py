"""A unit in flight."""

from dataclasses import dataclass

import pyarrow as pa

from pairsift.pipeline.ledger.layers import Numbers


@dataclass
class Unit:
    """A unit in flight: all its rows. `table` holds columns, "image" among them once bytes are at hand."""

    number: int
    table: pa.Table
    alive: Numbers  # bool, one per row

    @property
    def first(self) -> int:
        return int(self.table["ordinal"][0].as_py())

    def set(self, field: pa.Field, column: pa.Array) -> None:
        names = self.table.column_names
        if field.name in names:
            self.table = self.table.set_column(names.index(field.name), field.name, column)
        else:
            self.table = self.table.append_column(field.name, column)
