"""Unit vectors as whole numbers: sums of products come out the same in any order, on any number of threads, on any machine.

A component is rounded to a multiple of 1 / scale. A sum of products of two unit vectors is then at most about scale squared,
and so are all its partial sums (Cauchy and Schwarz): below 2**24 in float32, and 2**53 in float64, each of them is a whole
number that the type holds without rounding.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError

Array = NDArray[np.int64]

COARSE = 4000.0  # for float32: cosines to about 1e-4
FINE = float(1 << 25)  # for float64: cosines to about 1e-7


def whole(vectors: Any, scale: float) -> NDArray[np.float64]:
    """(rows, dim) of any length above 0 → whole numbers, vectors of length `scale`."""
    exact = np.asarray(vectors, np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    found: NDArray[np.float64] = np.rint(exact * (scale / lengths)[:, None])
    return found


class Store:
    """Rows with a vector, in the order of ordinals. `vectors` (rows, dim) lie in a file, as float16 or float32."""

    def __init__(self, ordinals: Array, generations: Array, vectors: Any, places: Array) -> None:
        self.ordinals, self.generations, self._vectors, self._places = ordinals, generations, vectors, places

    def __len__(self) -> int:
        return len(self.ordinals)

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    def whole(self, rows: Array, scale: float) -> NDArray[np.float64]:
        return whole(self._vectors[self._places[rows]], scale)

    @classmethod
    def read(cls, rows: pa.RecordBatchReader, column: str, folder: str, check: Callable[[], None]) -> "Store":
        """Rows whose vector is null, all zeros or not finite are left out. Raises ConfigError for another column."""
        kind = rows.schema.field(column).type
        dtype = _number(kind, column)
        path, taken = os.path.join(folder, "vectors"), []
        with open(path, "wb") as file:
            for batch in rows:
                check()
                known, vectors = usable(batch, column, dtype)
                file.write(vectors.tobytes())
                taken.append([known[name].to_numpy(zero_copy_only=False) for name in ("ordinal", "generation")])
        ordinals, generations = (np.concatenate([np.zeros(0, np.int64), *(part[n] for part in taken)]) for n in (0, 1))
        places = np.argsort(ordinals)
        if not len(ordinals):
            return cls(ordinals, generations, np.zeros((0, kind.list_size), dtype), places)
        stored = np.memmap(path, dtype, "r", shape=(len(ordinals), kind.list_size))
        return cls(ordinals[places], generations[places], stored, places)

    @classmethod
    def of(cls, table: pa.Table, column: str) -> "Store":
        """Of a table that is in memory, whose rows are in order. The same rows are left out."""
        batch = table.combine_chunks()
        known, vectors = usable(batch, column, _number(table.schema.field(column).type, column))
        ordinals, generations = (known[name].to_numpy() for name in ("ordinal", "generation"))
        return cls(ordinals, generations, vectors, np.arange(len(ordinals)))


def usable(rows: Any, column: str, dtype: Any) -> tuple[Any, NDArray[Any]]:
    """The rows, of a table or a batch, whose vector is one, and their vectors (rows, dim)."""
    known = rows.filter(pc.is_valid(rows[column]))
    flat = pc.list_flatten(known[column])
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    vectors = flat.to_numpy(zero_copy_only=False).astype(dtype).reshape(len(known), rows.schema.field(column).type.list_size)
    good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1) if len(known) else np.zeros(0, bool)
    return (known, vectors) if good.all() else (known.filter(pa.array(good)), vectors[good])


def _number(kind: pa.DataType, column: str) -> Any:
    """The type of a column's numbers. Raises ConfigError for another kind of column."""
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise ConfigError(f"column {column!r} is {kind}, not a fixed_size_list of floats, as `embed` writes it")
    return np.float16 if pa.types.is_float16(kind.value_type) else np.float32
