"""Layers and payloads: what has been computed, and nothing else.

    work/layers/STAGE-FINGERPRINT/FOLDER/UNIT.parquet     the columns one stage added, for the rows it was run on
    work/payloads/STAGE-FINGERPRINT/FOLDER/UNIT-TOKEN.tar  the images that stage wrote for the unit
    work/attempts/STAGE-FINGERPRINT/UNIT                   one byte per attempt that has not ended

A layer appearing under its final name is the commit. A payload is written first, under a name with an attempt token
that the layer then cites; one that no layer cites is an orphan. Restart = list what is there, subtract, go on.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsift.pipeline.tar import TarWriter
from pairsift.stages import schema
from pairsift.stages.storage import Folder, is_remote

Numbers = NDArray[Any]  # one per row; the type is said where it matters

UNITS_PER_FOLDER = 1000  # so that no folder grows beyond what lists quickly, at a million units


def unit_path(unit: int) -> str:
    """FOLDER/UNIT of a unit's files."""
    return f"{unit // UNITS_PER_FOLDER:06d}/{unit:09d}"


@dataclass(frozen=True)
class Layer:
    """The columns one stage added. `schema` is what its files hold: ordinal, the columns, failure, failure_detail."""

    name: str  # STAGE-FINGERPRINT
    schema: pa.Schema

    @staticmethod
    def of(name: str, columns: pa.Schema) -> "Layer":
        return Layer(name, pa.schema([schema.ORDINAL, *columns, schema.FAILURE, schema.FAILURE_DETAIL]))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.schema.names[1:-2])


class Ledger:
    """All layers of one work folder. Safe to use from many processes: a file is whole or absent."""

    def __init__(self, work: str) -> None:
        self.work = Folder(work)

    def units(self, layer: Layer) -> list[int]:
        """Units of which the layer holds something, in order."""
        folders = self.work.names(f"layers/{layer.name}")
        names = (name for folder in folders for name in self.work.names(f"layers/{layer.name}/{folder}"))
        return sorted(int(name.removesuffix(".parquet")) for name in names)

    def files(self, layer: Layer) -> list[str]:
        """Full paths of the layer's files, in unit order."""
        return [self.work.path(f"layers/{layer.name}/{unit_path(unit)}.parquet") for unit in self.units(layer)]

    def read(self, layer: Layer, unit: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The layer's rows of one unit in ordinal order, or None where nothing was committed yet.

        `ordinal` and `failure` always come along.
        """
        try:
            data = self.work.read(f"layers/{layer.name}/{unit_path(unit)}.parquet")
        except FileNotFoundError:
            return None
        wanted = None if columns is None else ["ordinal", *columns, "failure"]
        table = pq.read_table(pa.BufferReader(data), columns=wanted)
        return table.cast(pa.schema([layer.schema.field(name) for name in table.column_names]))

    def found(self, name: str, unit: int) -> Layer:
        """A layer as one of its files shows it."""
        return Layer(name, pq.read_schema(pa.BufferReader(self.work.read(f"layers/{name}/{unit_path(unit)}.parquet"))))

    def commit(self, layer: Layer, unit: int, table: pa.Table) -> None:
        """Publish the unit's rows of a layer, replacing what was there."""
        if table.schema != layer.schema:
            raise TypeError(f"layer {layer.name} takes {layer.schema}, not {table.schema}")
        sink = BytesIO()
        # Without Arrow's own types, which the layer knows: by them, Arrow before 26 could not read a null embedding.
        pq.write_table(table, sink, compression="zstd", store_schema=False)
        self.work.write(f"layers/{layer.name}/{unit_path(unit)}.parquet", sink.getvalue())

    def write_payload(self, layer: Layer, unit: int, keys: list[str], formats: list[str | None], images: pa.Array) -> pa.Table:
        """Store a unit's images in one tar and return their references (image_path, image_offset, image_length).

        A row without an image has nulls in all three. `image_path` is relative to the work folder.
        """
        path = f"payloads/{layer.name}/{unit_path(unit)}-{uuid.uuid4().hex[:12]}.tar"
        offsets: list[int | None] = []
        lengths: list[int | None] = []
        with self.work.create(path) as file:
            tar = TarWriter(file)
            for key, extension, image in zip(keys, formats, images, strict=True):
                if not image.is_valid:
                    offsets.append(None)
                    lengths.append(None)
                    continue
                data = memoryview(image.as_buffer())
                offsets.append(tar.add(f"{key}.{extension}", data))
                lengths.append(len(data))
            tar.close()
        paths = pa.array([None if offset is None else path for offset in offsets], pa.string())
        arrays = [paths, pa.array(offsets, pa.int64()), pa.array(lengths, pa.int64())]
        return pa.table(arrays, schema=pa.schema([schema.IMAGE_PATH, schema.IMAGE_OFFSET, schema.IMAGE_LENGTH]))

    def read_images(self, references: pa.Table) -> pa.LargeBinaryArray:
        """The encoded bytes that each row's (image_path, image_offset, image_length) points to; null for a null one.

        Raises OSError where a payload or source tar is missing or too short.
        """
        paths = references["image_path"].to_pylist()
        offsets = references["image_offset"].to_pylist()
        lengths = references["image_length"].to_pylist()
        images: list[bytes | None] = [None] * len(paths)
        for path in dict.fromkeys(p for p in paths if p is not None):
            rows = [i for i, p in enumerate(paths) if p == path]
            for row, data in zip(rows, self._ranges(path, [(offsets[i], lengths[i]) for i in rows]), strict=True):
                images[row] = data
        return pa.array(images, pa.large_binary())

    def _ranges(self, path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        uri = path if is_remote(path) or path.startswith("/") else self.work.path(path)
        if is_remote(uri):
            fs = Folder(uri).filesystem
            starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
            parts = [bytes(data) for data in fs.cat_ranges([uri] * len(ranges), starts, ends, on_error="raise")]
        else:
            with open(uri, "rb") as file:
                parts = [_read_range(file, start, length) for start, length in ranges]
        for part, (start, length) in zip(parts, ranges, strict=True):
            if len(part) != length:
                raise OSError(f"{uri} ends before byte {start + length}: the file is damaged or was replaced")
        return parts

    def begin_attempt(self, layer: Layer, unit: int) -> int:
        """Note that work on a unit begins; returns how many earlier attempts never ended."""
        name = f"attempts/{layer.name}/{unit:09d}"
        try:
            before = self.work.read(name)
        except FileNotFoundError:
            before = b""
        self.work.write(name, before + b".")
        return len(before)

    def end_attempt(self, layer: Layer, unit: int) -> None:
        self.work.remove(f"attempts/{layer.name}/{unit:09d}")


def _read_range(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def merge(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Both tables' rows in ordinal order. They have no row in common."""
    if old is None:
        return new
    both = pa.concat_tables([old, new])
    return both.take(pc.sort_indices(both, [("ordinal", "ascending")]))


def scatter(rows: Numbers, column: pa.ChunkedArray, length: int) -> pa.Array:
    """A column of `length` values with `column`'s values at the positions `rows` and nulls elsewhere."""
    indices = np.full(length, -1, np.int64)
    indices[rows] = np.arange(len(rows))
    return column.combine_chunks().take(pa.array(indices, mask=indices < 0))
