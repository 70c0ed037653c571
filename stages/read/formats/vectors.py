"""Vectors that were made elsewhere, as columns of a reader's rows, so that nothing need be embedded again.

`input.vectors` maps a name of ours to where they are:

    l14_img                              the array of a.npz beside a.parquet, as DataComp's pools have them
    ../img_emb/img_emb_{}.npy            an .npy file for each Parquet file, as clip-retrieval writes them
    emb                                  a column of the Parquet file itself: a list of floats

They become unit vectors in float16: one that is longer or shorter is scaled, one of zeros is null, and where a value is not a
finite number the row fails.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Failure, Status
from pairsift.stages.read.formats.arrays import Array, beside, open_npy, open_npz
from pairsift.stages.read.formats.columns import RESERVED
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.sources import open_arrow

_EMBEDDINGS = frozenset({"image_embedding", "text_embedding"})
_ROUNDING = 2e-3  # how far from 1 the length of a unit vector in float16 may be; such a one is taken to the bit

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def columns_of_vectors(uri: str, names: Mapping[str, str] | None) -> dict[str, str]:
    """Those of the vectors that are columns of the file itself."""
    found = parquet_columns(uri).names if names else []
    return {ours: theirs for ours, theirs in (names or {}).items() if theirs in found}


def vector_fields(uri: str, names: Mapping[str, str], picked: Iterable[str]) -> list[pa.Field]:
    """Columns of float16 vectors, as long as those that belong to the Parquet file `uri`. `picked`: the columns beside them.

    Raises:
        ConfigError: where there are none, where they are no vectors, or where the name is that of a column beside them or one
            of pairsift's own.
    """
    taken = names.keys() & set(picked)
    if taken:
        raise ConfigError(f"input.vectors: {min(taken)!r} is a column of the files, too; give it another name")
    inside = columns_of_vectors(uri, names)
    with ExitStack() as stack:
        fields = []
        for ours, theirs in names.items():
            if ours.lower() in RESERVED - _EMBEDDINGS:
                raise ConfigError(f"input.vectors: {ours!r} is a column that pairsift writes itself; give it another name")
            width = _list_width(uri, theirs) if ours in inside else _opened(stack, uri, theirs).width
            fields.append(schema.embedding(ours, width))
        return fields


def with_vectors(tables: Iterator[pa.Table], uri: str, names: Mapping[str, str], fields: list[pa.Field]) -> Iterator[pa.Table]:
    """The tables of the Parquet file `uri` (with `failure`, `failure_detail`) and a vector for each row, as `fields` say.

    An array has a vector for each row of the file; or, if the file has a column `status`, for each success.

    Raises:
        ConfigError: where an array has another number of rows, or vectors of another length than the first file's.
    """
    inside = columns_of_vectors(uri, names)
    with ExitStack() as stack:
        arrays = {f.name: _opened(stack, uri, names[f.name]) for f in fields if f.name not in inside}
        successes_only = {name for name, array in arrays.items() if _is_of_successes(array, uri)}
        for field in fields:
            width = arrays[field.name].width if field.name in arrays else _list_width(uri, inside[field.name], field)
            if width != field.type.list_size:
                name = arrays[field.name].name if field.name in arrays else f"{uri}: {inside[field.name]!r}"
                raise ConfigError(f"{name} has vectors of {width}, and the first file of {field.type.list_size}")
        given = 0
        for table in tables:
            done = table
            for field in fields:
                if field.name in inside:
                    values, there = _of_lists(table[inside[field.name]], field.type.list_size)
                else:
                    there = _successes(table) if field.name in successes_only else np.ones(len(table), np.bool_)
                    values = np.zeros((len(table), field.type.list_size), np.float32)
                    values[there] = arrays[field.name].take(int(there.sum()))
                done = _with_column(done, field, values, there, f"{uri}: {names[field.name]!r}", given)
            given += len(table)
            yield done


def _opened(stack: ExitStack, uri: str, theirs: str) -> Array:
    if theirs.endswith(".npy"):
        return open_npy(stack, beside(uri, theirs))
    return open_npz(stack, f"{uri.rpartition('.')[0]}.npz", theirs)


def _is_of_successes(array: Array, uri: str) -> bool:
    """Raises ConfigError where the array is neither of the file's rows nor of its successes."""
    with open_arrow(uri) as file:
        parquet = pq.ParquetFile(file)
        rows = parquet.metadata.num_rows
        if array.rows == rows:
            return False
        if "status" in parquet.schema_arrow.names:
            successes = int(_successes(parquet.read(["status"], use_threads=False)).sum())
            if array.rows == successes:
                return True
            raise ConfigError(f"{array.name} has {array.rows} rows, and the file has {rows}, {successes} of them successes")
    raise ConfigError(f"{array.name} has {array.rows} rows, and the file has {rows}")


def _successes(table: pa.Table) -> Flags:
    found = pc.equal(table["status"].cast(pa.string()), Status.SUCCESS.value)
    return np.asarray(pc.fill_null(found, False).to_numpy(), np.bool_)


def _list_width(uri: str, name: str, expected: pa.Field | None = None) -> int:
    """How long the vectors of a column are: its type says it, or the first vector does. One without any is as `expected`."""
    kind = parquet_columns(uri).field(name).type
    if not _is_list_of_floats(kind):
        raise ConfigError(f"{uri}: the column {name!r} is {kind}, not a list of floats")
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    if expected is not None:  # of a list, each row is looked at
        return int(expected.type.list_size)
    for table in parquet_tables(uri, [name], frozenset()):
        found = pc.list_value_length(table[name]).drop_null()
        if len(found) and found[0].as_py():
            return int(found[0].as_py())
    raise ConfigError(f"{uri}: the column {name!r} holds no vector, so their length is not known")


def _is_list_of_floats(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


def _of_lists(column: pa.ChunkedArray, width: int) -> tuple[Floats, Flags]:
    """(values, which are there). A vector of another length than `width` is all NaN, so that its row fails."""
    lists = column.combine_chunks()
    there = np.asarray(lists.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    fits = pc.fill_null(pc.equal(pc.list_value_length(lists), width), False)
    values = np.full((len(lists), width), np.nan, np.float32)
    flat = lists.filter(fits).flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values[fits.to_numpy(zero_copy_only=False)] = np.asarray(flat, np.float32).reshape(-1, width)
    return values, there


def _with_column(table: pa.Table, field: pa.Field, values: Floats, there: Flags, where: str, first: int) -> pa.Table:
    """The table with the vectors, and with failures of rows whose vector is no vector."""
    finite = np.isfinite(values).all(axis=1)
    values[~finite] = 0
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    scaled = np.flatnonzero((np.abs(lengths - 1) > _ROUNDING) & (lengths > 0))
    values[scaled] = values[scaled] / lengths[scaled, None]
    flat = pa.array(values.astype(np.float16).ravel(), pa.float16())
    absent = ~there | ~finite | (lengths == 0)
    column = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size, mask=pa.array(absent))
    return _failed(table.append_column(field, column), np.flatnonzero(there & ~finite), where, first)


def _failed(table: pa.Table, rows: NDArray[np.intp], where: str, first: int) -> pa.Table:
    if not len(rows):
        return table
    failures, details = table["failure"].to_pylist(), table["failure_detail"].to_pylist()
    for row in rows.tolist():
        if failures[row] is None:
            failures[row] = Failure.NOT_FINITE.value
            details[row] = f"{where} row {first + row}: not a vector of finite numbers of the right length"
    for field, values in ((schema.FAILURE, failures), (schema.FAILURE_DETAIL, details)):
        table = table.set_column(table.column_names.index(field.name), field, pa.array(values, field.type))
    return table
