"""Bytes of images that no rule kept, given up on request: noted first, so that nobody reads them any more, and then freed.

A payload keeps its length and its headers, and what every layer says of it stays true; the images become holes, which take no
room on the disk. See ledger/freed.py for what a run makes of such a row.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.ledger import freed
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.freed import FreedImages
from pairsift.pipeline.ledger.intake import read_generations
from pairsift.pipeline.ledger.layers import Layer, Ledger
from pairsift.pipeline.plan import Plan
from pairsift.pipeline.report.manifest import read_json
from pairsift.pipeline.upkeep.payloads import Ranges
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder, is_remote

_PAGE = 4096  # bytes: the disk frees whole ones
_IMAGE_BEGINS = 16  # bytes, of which an image has at least one that is not zero
_REFERENCE = ["image_path", "image_offset", "image_length"]


class Rejects:
    """The images of a work folder that none of these plans keeps: `payloads` that hold some, and the `bytes` that would go."""

    def __init__(self, work: Folder, plans: Iterable[Plan]) -> None:
        """Raises ConfigError where rows are still to be computed, and for a work folder on an object store."""
        if not work.local:
            raise ConfigError(f"{work.uri}: --rejects frees parts of files, which an object store cannot")
        self._work, ledger = work, Ledger(work.uri)
        generations = read_generations(ledger)
        self._kept = np.zeros(sum(g.rows for g in generations), np.bool_)
        self._blocks = Blocks(ledger, generations, len(self._kept))
        layers: dict[str, Layer] = {}
        for plan in plans:
            limit = (read_json(Folder(plan.config.output), "cut.json") or {}).get("limit")
            with Cut(plan, ledger, generations, limit, plan.config.cut_memory) as cut:
                if waiting := cut.play(len(plan.steps)):
                    label = plan.steps[waiting[0].step].label
                    raise ConfigError(
                        f"{plan.config.output}: {waiting[0].rows:,} rows wait for {label}; run the config, so that it is known "
                        "which are rejected"
                    )
                self._kept[cut.rows :] = True
                for table in cut.kept({"ordinal"}):
                    self._kept[table["ordinal"].to_numpy()] = True
            layers |= {step.layer.name: step.layer for step in plan.steps if step.layer and step.makes_images}
        self._layers = list(layers.values())
        self.payloads: list[str] = []
        self.bytes = 0
        for path, places in self._left():
            self.payloads.append(path)
            self.bytes += sum(map(_pages, places))

    def free(self) -> None:
        """Give them up. Killed half-way, the same again does the rest."""
        for layer in self._layers:
            there = FreedImages(self._work, layer.name)
            ordinals = [np.empty(0, np.int64)]
            for block, bounds in enumerate(self._blocks.bounds):
                rejects = self._rejects(layer, block)["ordinal"].to_numpy()
                ordinals.append(np.setdiff1d(rejects, there.between(*bounds)))
            freed.note(self._work, layer.name, np.concatenate(ordinals))
        for path, places in self._left():
            _make_holes(self._work, path, places)

    def _left(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Payloads, with (offset, length) of the images in them that are to go and are there still."""
        for layer in self._layers:
            for block in range(self._blocks.count):
                ranges: Ranges = defaultdict(list)
                for row in self._rejects(layer, block).to_pylist():
                    ranges[row["image_path"]].append((row["image_offset"], row["image_length"]))
                for path, places in ranges.items():
                    if left := _not_empty(self._work, path, places):
                        yield path, left

    def _rejects(self, layer: Layer, block: int) -> pa.Table:
        """The rows of a block that are not kept and have images in payloads. Images of a source that is not ours stay."""
        table = self._blocks.read(layer, block, _REFERENCE).filter(pc.is_valid(pc.field("image_path")))
        wanted = ~self._kept[table["ordinal"].to_numpy()]
        paths = table["image_path"].to_pylist()
        ours = np.array([not is_remote(path) and not path.startswith("/") for path in paths], np.bool_)
        return table.filter(pa.array(wanted & ours))


def _pages(place: tuple[int, int]) -> int:
    """Bytes that the disk gets back for (offset, length)."""
    offset, length = place
    return max(0, (offset + length) // _PAGE - -(-offset // _PAGE)) * _PAGE


def _not_empty(work: Folder, path: str, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    left = []
    with open(work.path(path), "rb") as file:
        for offset, length in places:
            file.seek(offset)
            if any(file.read(min(_IMAGE_BEGINS, length))):
                left.append((offset, length))
    return left


def _make_holes(work: Folder, path: str, places: list[tuple[int, int]]) -> None:
    """Write a payload again without these bytes: what is never written to is a hole, and reads as zeros."""
    with open(work.path(path), "rb") as old, work.create(path) as new:
        size, start = os.fstat(old.fileno()).st_size, 0
        for offset, length in [*sorted(places), (size, 0)]:
            _copy(old, new, start, offset)
            start = offset + length
        new.truncate(size)


def _copy(old: BinaryIO, new: BinaryIO, start: int, end: int) -> None:
    """Bytes [start, end), to the same place; pages of zeros, which an earlier time has left, become holes again."""
    for place in range(start, end, _PAGE):
        old.seek(place)
        data = old.read(min(_PAGE, end - place))
        if any(data):
            new.seek(place)
            new.write(data)
