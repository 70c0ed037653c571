"""Reference sets: what rows are held against. Evaluation sets, or what earlier runs have kept."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.stages.base import ConfigError, Source
from pairsift.stages.pixels import hashing
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.options import MAX_PIXELS
from pairsift.stages.sources import extension, list_sources, open_source

Wanted = Literal["values", "hashes", "vectors"]

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
_FILES = frozenset({"parquet", "txt", "npy"}) | _IMAGES


class References(NamedTuple):
    """Values and what each is called, in the order of files and rows. Nulls are left out."""

    values: pa.Array
    names: list[str]


def sources_of(paths: str | list[str]) -> list[Source]:
    """The files that are meant: those that paths name, of the output folder of a run its shards' Parquet files.

    Raises ConfigError where there are none.
    """
    return [source for path in ([paths] if isinstance(paths, str) else paths) for source in _sources(path)]


def _sources(path: str) -> list[Source]:
    for inside in ("shards", "release"):
        folder = os.path.join(path, inside)
        if os.path.isdir(folder):
            return list_sources(folder, ["parquet"])
    return list_sources(path, _FILES)


def identity_of(sources: Iterable[Source]) -> str:
    """A hash over names and contents: where the files lie is nothing."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        digest.update(f"{os.path.basename(source.uri)}\0{_content(source.uri, source.size, source.version)}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1 << 16)
def _content(uri: str, size: int | None, version: str) -> str:  # noqa: ARG001  # a file that has changed is read again
    digest = hashlib.blake2b(digest_size=16)
    with open_source(uri, decompress=False) as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def read_references(sources: list[Source], column: str, wanted: Wanted, bits: int) -> References:
    """`column` of Parquet files; the lines of .txt; the rows of .npy; of images their pHash of so many bits, or their sha256.

    Raises ConfigError for a file that does not have what is wanted.
    """
    parts, names = [], []
    for source in sources:
        for values, of in _read(source, column, wanted, bits):
            known = values.is_valid()
            parts.append(values.filter(known))
            names += [name for name, there in zip(of, known.to_pylist(), strict=True) if there]
    if not names:
        raise ConfigError(f"{sources[0].uri} and whatever else is named hold no {column!r} that is not null")
    if len({part.type for part in parts}) > 1:
        raise ConfigError(
            f"the references' {column!r} is of different types: {', '.join(sorted({str(p.type) for p in parts}))}"
        )
    return References(pa.concat_arrays(parts), names)


def _read(source: Source, column: str, wanted: Wanted, bits: int) -> Iterator[tuple[pa.Array, Iterable[str]]]:
    kind, file = extension(source.uri), os.path.basename(source.uri)
    if (kind == "npy") != (wanted == "vectors") and kind != "parquet":
        raise ConfigError(f"{source.uri}: for {wanted} of {column!r} this kind of file says nothing")
    if kind == "parquet":
        yield from _of_parquet(source.uri, file, column, wanted)
        return
    with open_source(source.uri, decompress=True) as stream:
        data = stream.read()
    if kind == "npy":
        matrix = np.load(io.BytesIO(data), allow_pickle=False)
        flat = pa.array(matrix.astype(np.float32).ravel())
        yield pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]), _numbered(file, len(matrix))
    elif kind == "txt":
        lines = data.decode().splitlines()
        yield pa.array([line or None for line in lines], pa.string()), _numbered(file, len(lines))
    else:
        value = hashlib.sha256(data).hexdigest() if wanted == "values" else _phash(data, bits)
        yield pa.array([value], pa.string()), [file]


def _of_parquet(uri: str, file: str, column: str, wanted: Wanted) -> Iterator[tuple[pa.Array, Iterable[str]]]:
    with open_source(uri, decompress=False) as stream:
        parquet = pq.ParquetFile(stream)
        if column not in parquet.schema_arrow.names:
            raise ConfigError(f"{uri} has no column {column!r}, but {', '.join(parquet.schema_arrow.names)}")
        done = 0
        for batch in parquet.iter_batches(columns=[column], use_threads=False):
            values = batch.column(0)
            yield _vectors(values, uri, column) if wanted == "vectors" else values, _numbered(file, len(values), done)
            done += len(values)


def _vectors(values: pa.Array, uri: str, column: str) -> pa.Array:
    """Lists of any kind → lists of fixed size, float32."""
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ConfigError(f"{uri}: column {column!r} is {kind}, not lists of floats")
    size = next((len(value) for value in values if value.is_valid), 1)
    try:
        return values.cast(pa.list_(pa.float32(), size))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{uri}: column {column!r} holds no lists of {size} floats: {error}") from None


def _numbered(file: str, rows: int, first: int = 0) -> Iterable[str]:
    return (f"{file}:{row}" for row in range(first, first + rows))


def _phash(data: bytes, bits: int) -> str | None:
    """None for what is flat or cannot be read: nothing is near to it."""
    try:
        return hashing.phash(data, bits, hashing.LEAST_CONTRAST, MAX_PIXELS)[0]
    except ImageError:
        return None
