"""Finished rows as one table, each image copied once and let go at once."""

from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]  # column name → value; what is not named is null


def table_of(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows in order, every column in one chunk. Values of `large_binary` columns are taken out of the rows, so that a
    batch is not in memory twice."""
    columns = [_bytes(rows, f.name) if f.type == pa.large_binary() else _plain(rows, f) for f in schema]
    return pa.table(columns, schema=schema)


def _plain(rows: list[Row], field: pa.Field) -> pa.Array:
    return pa.array([row.get(field.name) for row in rows], field.type)


def _bytes(rows: list[Row], name: str) -> pa.Array:
    """A `large_binary` array. pa.array would grow its buffer by doubling, while all values are still there."""
    lengths = [len(row.get(name) or b"") for row in rows]
    offsets = np.array([0, *accumulate(lengths)], np.int64)
    buffer = pa.allocate_buffer(int(offsets[-1]))
    there, view = np.zeros(len(rows), bool), memoryview(buffer).cast("B")
    for index, row in enumerate(rows):
        value = row.pop(name, None)
        there[index] = value is not None
        view[offsets[index] : offsets[index + 1]] = value or b""
    bits = pa.py_buffer(np.packbits(there, bitorder="little").tobytes())
    validity = None if there.all() else bits
    return pa.Array.from_buffers(pa.large_binary(), len(rows), [validity, pa.py_buffer(offsets), buffer])
