"""Columns of vectors as matrices, for scorers that compute on embeddings."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def matrix(column: pa.ChunkedArray, use: str, name: str) -> NDArray[np.float32]:
    """(rows, dim) in float32. Rows that are null hold whatever lies in the buffer; they may not be used.

    Raises ValueError, which names the stage `use` and the column `name`, where it is not a fixed_size_list.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"{use}: column {name!r} is {column.type}, not a fixed_size_list of floats")
    dim = column.type.list_size
    rows = [_chunk_values(chunk).reshape(-1, dim) for chunk in column.chunks]
    return np.concatenate(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def _chunk_values(chunk: pa.FixedSizeListArray) -> NDArray[np.float32]:
    # `.values` ignores the chunk's offset but, unlike `flatten()`, keeps the places of null rows.
    dim = chunk.type.list_size
    values = chunk.values.slice(chunk.offset * dim, len(chunk) * dim)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)
