"""Vectors beside the rows of a file: NumPy's .npz archives, row by row, as DataComp's pools have their embeddings.

`a.npz` holds arrays for the rows of `a.parquet`, by name, one vector per row. They are read in step with the rows, some
megabytes at a time; nothing in them is unpickled.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from pairsift.stages.base import ConfigError
from pairsift.stages.sources import open_source

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Array(NamedTuple):
    """One array, at its next row."""

    file: IO[bytes]
    rows: int
    width: int
    dtype: np.dtype


def vector_fields(uri: str, names: Mapping[str, str]) -> list[pa.Field]:
    """Our name: the array's name, as columns of float16 vectors. Raises ConfigError where there is no such archive or array."""
    with ExitStack() as stack:
        arrays = _opened(stack, uri, names)
        return [pa.field(ours, pa.list_(pa.float16(), array.width)) for ours, array in arrays.items()]


def with_vectors(tables: Iterator[pa.Table], uri: str, names: Mapping[str, str], fields: list[pa.Field]) -> Iterator[pa.Table]:
    """The tables of the file `uri` with a vector of each array for each row, as `fields` say.

    Raises:
        ConfigError: where an array has not as many rows as the file, or vectors of another length than the first file's.
    """
    with ExitStack() as stack:
        arrays = _opened(stack, uri, names)
        given = 0
        for table in tables:
            given += len(table)
            found = table
            for field in fields:
                array = arrays[field.name]
                if array.width != field.type.list_size:
                    raise _wrong(
                        uri, names[field.name], f"has vectors of {array.width}, and the first file of {field.type.list_size}"
                    )
                data = array.file.read(len(table) * array.width * array.dtype.itemsize)
                if len(data) < len(table) * array.width * array.dtype.itemsize:
                    raise _wrong(uri, names[field.name], f"has {array.rows} rows, and the file has more")
                values = pa.array(np.frombuffer(data, array.dtype).astype(np.float16))
                found = found.append_column(field, pa.FixedSizeListArray.from_arrays(values, array.width))
            yield found
        for ours, array in arrays.items():
            if array.rows != given:
                raise _wrong(uri, names[ours], f"has {array.rows} rows, and the file has {given}")


def _opened(stack: ExitStack, uri: str, names: Mapping[str, str]) -> dict[str, _Array]:
    path = _npz(uri)
    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_source(path, decompress=False))))
    except (FileNotFoundError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: input.vectors needs an .npz beside each file: {error}") from error
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    for ours, theirs in names.items():
        if theirs not in found:
            raise ConfigError(f"{path} has no array {theirs!r} for {ours}; it has {', '.join(sorted(found))}")
    return {ours: _array(stack.enter_context(archive.open(f"{theirs}.npy")), path, theirs) for ours, theirs in names.items()}


def _array(file: IO[bytes], path: str, name: str) -> _Array:
    try:
        version = np.lib.format.read_magic(file)
        shape, by_columns, dtype = _HEADERS[version](file)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: {name!r} is no array: {error}") from error
    if len(shape) != 2 or by_columns or dtype.kind != "f":
        raise ConfigError(f"{path}: {name!r} is {dtype} of shape {shape}, not a vector of floats for each row")
    return _Array(file, shape[0], shape[1], dtype)


def _npz(uri: str) -> str:
    return f"{uri.rpartition('.')[0]}.npz"


def _wrong(uri: str, name: str, problem: str) -> ConfigError:
    return ConfigError(f"{_npz(uri)}: {name!r} {problem}")
