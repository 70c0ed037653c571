"""Layers and payloads: what has been computed, and nothing else.

    work/layers/STAGE-FINGERPRINT/FOLDER/UNIT.parquet      the columns one stage added, for the rows it was run on
    work/layers/STAGE-FINGERPRINT/FOLDER/UNIT-PART.parquet  the same for rows that came alive later; parts count from 1
    work/payloads/STAGE-FINGERPRINT/FOLDER/UNIT-TOKEN.tar   the images that stage wrote for the unit
    work/attempts/STAGE-FINGERPRINT/UNIT                    one byte per attempt that has not ended

A layer's file appearing under its final name is the commit. It is never replaced: the first commit of a row stands, and
rows that are added go into the unit's next part. A payload is written first, under a name with an attempt token that the
layer then cites; one that no layer cites is an orphan. Restart = list what is there, subtract, go on.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsift.pipeline.ledger.parquet import parquet_options
from pairsift.pipeline.ledger.ranges import References, read_into
from pairsift.pipeline.ledger.tar import TarWriter
from pairsift.stages import schema
from pairsift.stages.storage import Folder

Numbers = NDArray[Any]  # one per row; the type is said where it matters

UNITS_PER_FOLDER = 1000  # so that no folder grows beyond what lists quickly, at a million units


def unit_path(unit: int) -> str:
    """FOLDER/UNIT of a unit's files."""
    return f"{unit // UNITS_PER_FOLDER:06d}/{unit:09d}"


def part_path(layer: "Layer", unit: int, part: int) -> str:
    """A layer's file, relative to the work folder."""
    return f"layers/{layer.name}/{unit_path(unit)}{f'-{part}' if part else ''}.parquet"


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

    def parts(self, layer: Layer) -> list[tuple[int, int]]:
        """(unit, part) of every file of the layer, in order."""
        return [part for folder in self.work.names(f"layers/{layer.name}") for part in self.parts_in(layer.name, int(folder))]

    def parts_in(self, layer: str, folder: int) -> list[tuple[int, int]]:
        """(unit, part) of the files of a layer, by its name, in the folder of units from UNITS_PER_FOLDER * folder on."""
        names = self.work.names(f"layers/{layer}/{folder:06d}")
        stems = (name.removesuffix(".parquet").partition("-") for name in names)
        return sorted((int(unit), int(part or 0)) for unit, _, part in stems)

    def units(self, layer: Layer) -> list[int]:
        """Units of which the layer holds something, in order."""
        return [unit for unit, part in self.parts(layer) if part == 0]

    def files(self, layer: Layer) -> list[str]:
        """Full paths of the layer's files, in the order of `parts`."""
        return [self.work.path(part_path(layer, unit, part)) for unit, part in self.parts(layer)]

    def read(self, layer: Layer, unit: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The layer's rows of one unit in ordinal order, or None where nothing was committed yet.

        `ordinal` and `failure` always come along.
        """
        found: pa.Table | None = None
        part = 0
        wanted = None if columns is None else ["ordinal", *columns, "failure"]
        while (table := self.read_part(layer, unit, part, wanted)) is not None:
            found, part = merge(found, table), part + 1
        return found

    def read_part(self, layer: Layer, unit: int, part: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """These columns (None: all) of one file of a layer, or None where there is none. Rows are by ordinal.

        Raises OSError for a damaged file.
        """
        path = part_path(layer, unit, part)
        names = layer.schema.names if columns is None else list(columns)
        try:
            # Not read_table, which costs a millisecond more.
            file = pq.ParquetFile(pa.BufferReader(self.work.read(path)), page_checksum_verification=True)
            table = file.read(names, use_threads=False).select(names)
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise OSError(f"{self.work.path(path)}: cannot be read: {error}; `pairsift check` says what to do") from error
        return table.cast(pa.schema([layer.schema.field(name) for name in names]))

    def found(self, name: str, unit: int) -> Layer:
        """A layer as one of its files shows it."""
        return Layer(name, pq.read_schema(pa.BufferReader(self.work.read(f"layers/{name}/{unit_path(unit)}.parquet"))))

    def commit(self, layer: Layer, unit: int, table: pa.Table) -> bool:
        """Publish rows of a unit, as a part of their own. The first commit of a row stands: one that is there already is left
        out. Returns whether all rows of `table` were published; nothing is written for none."""
        self._check(layer, table)
        new, part = table, 0
        while len(new) and not self.work.create_exclusive(part_path(layer, unit, part), _encoded(new)):
            there = self.read_part(layer, unit, part, ["ordinal"])
            if there is not None:
                new = new.filter(pc.invert(pc.is_in(new["ordinal"], there["ordinal"].combine_chunks())))
                part += 1
        return len(new) == len(table)

    def write_intake(self, layer: Layer, unit: int, table: pa.Table) -> None:
        """Write a unit of layer 0, in place of what an intake that was cut short left there. It counts once a generation
        holds it; from then on it is never written again."""
        self._check(layer, table)
        self.work.write(part_path(layer, unit, 0), _encoded(table))

    @staticmethod
    def _check(layer: Layer, table: pa.Table) -> None:
        if table.schema != layer.schema:
            raise TypeError(f"layer {layer.name} takes {layer.schema}, not {table.schema}")

    def write_payload(
        self, layer: Layer, unit: int, keys: list[str], formats: list[str | None], images: pa.Array | pa.ChunkedArray
    ) -> pa.Table:
        """Store a unit's images (large_binary) in one tar and return their references (image_path, image_offset, image_length).

        A row without an image has nulls in all three. `image_path` is relative to the work folder.
        """
        path = f"payloads/{layer.name}/{unit_path(unit)}-{uuid.uuid4().hex[:12]}.tar"
        offsets: list[int | None] = [None] * len(images)
        lengths: list[int | None] = [None] * len(images)
        chunks = images.chunks if isinstance(images, pa.ChunkedArray) else [images]
        found = [image for chunk in chunks for image in _where_they_lie(chunk)]
        there = [row for row, image in enumerate(found) if image is not None]
        members = [image for image in found if image is not None]
        with self.work.create(path) as file:
            tar = TarWriter(file)
            written = tar.add_all([f"{keys[row]}.{formats[row]}" for row in there], members)
            tar.close()
        for row, offset, image in zip(there, written, members, strict=True):
            offsets[row], lengths[row] = offset, len(image)
        paths = pa.array([None if offset is None else path for offset in offsets], pa.string())
        arrays = [paths, pa.array(offsets, pa.int64()), pa.array(lengths, pa.int64())]
        return pa.table(arrays, schema=pa.schema([schema.IMAGE_PATH, schema.IMAGE_OFFSET, schema.IMAGE_LENGTH]))

    def read_images(self, references: pa.Table) -> pa.LargeBinaryArray:
        """The encoded bytes that each row's (image_path, image_offset, image_length) points to; null for a null one.

        Raises OSError where a payload or source tar is missing or too short, or a payload holds zeros in an image's place.
        """
        there = references["image_path"].combine_chunks().is_valid()
        lengths = pc.if_else(there, references["image_length"], 0).to_numpy().astype(np.int64)
        offsets = np.append(0, np.cumsum(lengths))
        data = pa.allocate_buffer(int(offsets[-1]))
        view, starts, ends = memoryview(data), offsets[:-1], offsets[1:]
        mask = there.to_numpy(zero_copy_only=False)
        places = [view[start:end] for start, end in zip(starts[mask].tolist(), ends[mask].tolist(), strict=True)]
        found = References.of(references.filter(there), self.work)
        read_into(found, places)
        found.refuse_zeros(_begins_with_zeros(np.frombuffer(data, np.uint8), starts[mask], ends[mask]))
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(there), [there.buffers()[1], pa.py_buffer(offsets), data], there.false_count
        )

    def begin_attempt(self, layer: Layer, unit: int) -> int:
        """Note that work on a unit begins; returns how many earlier attempts never ended."""
        name = f"attempts/{layer.name}/{unit:09d}"
        try:
            before = self.work.read(name)
        except FileNotFoundError:
            before = b""
        self.work.write(name, before + b".")
        return len(before)

    def forgive_attempts(self, layer: Layer) -> None:
        """Take the last attempt at each of the layer's units for one that has ended. Nobody works on the layer."""
        for name in self.work.names(f"attempts/{layer.name}"):
            path = f"attempts/{layer.name}/{name}"
            if left := self.work.read(path)[:-1]:
                self.work.write(path, left)
            else:
                self.work.remove(path)

    def end_attempt(self, layer: Layer, unit: int) -> None:
        self.work.remove(f"attempts/{layer.name}/{unit:09d}")


def _where_they_lie(images: pa.LargeBinaryArray) -> list[memoryview | None]:
    """The bytes of each value, None for a null. An Arrow scalar would be a copy of them."""
    if images.type != schema.IMAGE.type:
        raise TypeError(f"images are {schema.IMAGE.type}, not {images.type}")
    _, ends, data = images.buffers()
    offsets = np.frombuffer(ends, np.int64)[images.offset : images.offset + len(images) + 1].tolist()
    view = memoryview(data or b"")
    places = [view[start:end] for start, end in pairwise(offsets)]
    if images.null_count == 0:
        return list(places)
    return [place if valid else None for place, valid in zip(places, images.is_valid().to_pylist(), strict=True)]


def _begins_with_zeros(data: Numbers, starts: Numbers, ends: Numbers) -> Numbers:
    """Whether the first 8 bytes of each image are zeros; no image format begins so."""
    zeros = np.zeros(len(starts), bool)
    long = np.flatnonzero(ends - starts >= 8)
    zeros[long] = (data[starts[long][:, None] + np.arange(8)] == 0).all(axis=1)
    return zeros


def _encoded(table: pa.Table) -> bytes:
    sink = BytesIO()
    # Without Arrow's own types, which the layer knows: by them, Arrow before 26 could not read a null embedding. Without
    # dictionaries, of which most columns are too varied: vectors are written in half the time, and read in a third.
    pq.write_table(table, sink, store_schema=False, **parquet_options(table.schema))
    return sink.getvalue()


def merge(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Both tables' rows in ordinal order. They have no row in common."""
    if old is None:
        return new
    both = pa.concat_tables([old, new])
    return both.take(pc.sort_indices(both, [("ordinal", "ascending")]))


def scatter(rows: Numbers, column: pa.ChunkedArray, length: int) -> pa.Array:
    """A column of `length` values with `column`'s values at the positions `rows` and nulls elsewhere."""
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which would copy a single one, too
    if np.array_equal(rows, np.arange(length)):
        return whole
    indices = np.full(length, -1, np.int64)
    indices[rows] = np.arange(len(rows))
    return whole.take(pa.array(indices, mask=indices < 0))
