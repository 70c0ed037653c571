"""The images of single rows in the payloads of a work folder: where they lie, and how their bytes go."""

import os
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers, part_path
from pairsift.stages.storage import Folder, is_remote

Ranges = dict[str, list[tuple[int, int]]]  # path → (offset, length) in bytes
_REFERENCE = ["image_path", "image_offset", "image_length"]


def images_of(ledger: Ledger, generations: list[Generation], ordinals: Numbers) -> tuple[Ranges, list[str]]:
    """Where the images of these rows lie in payloads, by any layer of the work folder, as far as they are not zeros already;
    and the files of others that hold some, too."""
    ranges: Ranges = defaultdict(list)
    elsewhere: set[str] = set()
    units = sorted({_unit_of(generations, ordinal) for ordinal in ordinals.tolist()})
    for layer in (Layer(name, pa.schema([])) for name in ledger.work.names("layers")):
        for unit in units:
            part = 0
            while (references := _references(ledger, layer, unit, part)) is not None:
                wanted = np.isin(references["ordinal"].to_numpy(), ordinals)
                for row in references.filter(pa.array(wanted)).to_pylist():
                    path = row["image_path"]
                    if path is not None and (is_remote(path) or path.startswith("/")):
                        elsewhere.add(path)
                    elif path is not None:
                        ranges[path].append((row["image_offset"], row["image_length"]))
                part += 1
    left = {path: _not_zero(ledger.work, path, places) for path, places in ranges.items()}
    return {path: places for path, places in left.items() if places}, sorted(elsewhere)


def _unit_of(generations: list[Generation], ordinal: int) -> int:
    generation = next(g for g in generations if ordinal < g.end_ordinal)
    return generation.first_unit + (ordinal - generation.first_ordinal) // generation.unit_rows


def _references(ledger: Ledger, layer: Layer, unit: int, part: int) -> pa.Table | None:
    """A layer's file with images; None where there is no such file."""
    path = ledger.work.path(part_path(layer, unit, part))
    try:
        with ledger.work.filesystem.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            if "image_path" not in parquet.schema_arrow.names:
                return None
            return parquet.read(["ordinal", *_REFERENCE], use_threads=False)
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise OSError(f"{path}: cannot be read: {error}; `pairsift check` says what to do") from error


def _not_zero(work: Folder, path: str, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if not work.exists(path):
        return []
    left = []
    with work.filesystem.open(work.path(path), "rb") as file:
        for offset, length in places:
            file.seek(offset)
            if any(file.read(length)):
                left.append((offset, length))
    return left


def zero(work: Folder, path: str, places: list[tuple[int, int]]) -> None:
    """Overwrite byte ranges with zeros. All else stays where it is. Half done is no harm: nobody reads those bytes any more."""
    if work.local:
        with open(work.path(path), "r+b") as file:
            for offset, length in places:
                file.seek(offset)
                file.write(bytes(length))
            file.flush()
            os.fsync(file.fileno())
        return
    data = bytearray(work.read(path))
    for offset, length in places:
        data[offset : offset + length] = bytes(length)
    work.write(path, bytes(data))
