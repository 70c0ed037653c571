"""Finished rows as one table, in which large images lie where they came to be."""

from itertools import accumulate, groupby
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]  # column name → value; what is not named is null

_LARGE = 32_768  # bytes; to copy fewer takes no longer than to look after one more chunk


def table_of(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows in order. Values of `large_binary` columns are taken out of the rows, so that a batch is not in memory twice.

    Such a column has many chunks: a large value is one by itself, which refers to it; small ones are copied. Other columns
    have one.
    """
    columns = [_bytes(rows, f.name) if f.type == pa.large_binary() else _plain(rows, f) for f in schema]
    return pa.table(columns, schema=schema)


def _plain(rows: list[Row], field: pa.Field) -> pa.Array:
    return pa.array([row.get(field.name) for row in rows], field.type)


def _bytes(rows: list[Row], name: str) -> pa.ChunkedArray:
    chunks: list[pa.Array] = []
    for large, group in groupby((row.pop(name, None) for row in rows), _is_large):
        values = list(group)
        chunks += map(_referring, values) if large else [_copied(values)]
    return pa.chunked_array(chunks, pa.large_binary())


def _is_large(value: bytes | None) -> bool:
    return value is not None and len(value) >= _LARGE


def _referring(value: bytes) -> pa.Array:
    offsets = pa.py_buffer(np.array([0, len(value)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(value)])


def _copied(values: list[bytes | None]) -> pa.Array:
    """Takes each value out of the list. pa.array would grow its buffer by doubling, while all values are still there."""
    offsets = np.array([0, *accumulate(len(value or b"") for value in values)], np.int64)
    there = np.array([value is not None for value in values])
    buffer = pa.allocate_buffer(int(offsets[-1]))
    view = memoryview(buffer).cast("B")
    for index in range(len(values)):
        view[offsets[index] : offsets[index + 1]] = values[index] or b""
        values[index] = None
    validity = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.large_binary(), len(values), [validity, pa.py_buffer(offsets), buffer])
