"""A ledger with very many units, made up: `scale.py units` runs `pairsift plan` and `pairsift run` on it.

Each unit has a few rows, a file in layer 0 and one in the layer of a stage, but for the last units, which are left to do. Of
the others, the files of a folder are links to one file: nobody reads them, since compact files stand before them, as after any
run.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import load_config
from pairsift.pipeline.ledger.copies import CopyWriter, units_of_block
from pairsift.pipeline.ledger.intake import Generation, Intake
from pairsift.pipeline.ledger.layers import Layer, Ledger, part_path
from pairsift.pipeline.plan import make_plan
from pairsift.stages.base import Columns, Stage, Transform

UNIT_ROWS = 4
LEFT = 1000  # units that the stage has yet to do


class Scored(Stage):
    """A score that costs nothing."""

    def reads(self) -> Columns:
        return ("ordinal",)

    def writes(self) -> pa.Schema:
        return pa.schema([("score", pa.float32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield lambda batch: pa.table([_scores(batch["ordinal"].to_numpy())], schema=self.writes())


def config(folder: Path) -> dict[str, Any]:
    """One whose input has no rows: what the ledger holds was never read from anywhere."""
    path = folder / "input.parquet"
    if not path.exists():
        pq.write_table(pa.table({"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}), path)
    return {
        "input": {"use": "read.urls", "path": str(path), "unit_rows": UNIT_ROWS},
        "output": str(folder / "out"),
        "stages": [{"use": "made_units"}, {"use": "filter.where", "keep": "score >= 0.5"}],
    }


def make(folder: Path, units: int) -> None:
    """The work folder of a run that was stopped when LEFT units were left."""
    loaded = load_config(config(folder))
    plan, ledger = make_plan(loaded), Ledger(loaded.work)
    for layer, count in zip(plan.layers, (units, max(0, units - LEFT)), strict=True):
        size = units_of_block(UNIT_ROWS)
        for block, first in enumerate(range(0, count, size)):
            there = range(first, min(first + size, count))
            table = _rows(layer, there.start * UNIT_ROWS, len(there) * UNIT_ROWS)
            _commit(ledger, layer, there, table, units - LEFT)
            with CopyWriter(ledger.work, layer, block) as copy:
                copy.add(table)
                copy.finish((unit, 0) for unit in there)
    intake = Intake(ledger, plan.intake, loaded.input)
    rows, name = units * UNIT_ROWS, plan.intake.name
    places = {"number": 0, "first_unit": 0, "first_ordinal": 0, "sources": tuple(loaded.input.sources())}
    intake.add(Generation(intake=name, unit_rows=UNIT_ROWS, rows=rows, **places))


def _rows(layer: Layer, first: int, count: int) -> pa.Table:
    ordinals = np.arange(first, first + count)
    texts = {
        "key": [f"{n:09d}" for n in ordinals],
        "uid": [f"{n:032x}" for n in ordinals],
        "url": [f"http://host{n % 5000}.example/{n}.jpg" for n in ordinals],
        "caption": [f"number {n}" for n in ordinals],
    }
    columns: dict[str, Any] = {"ordinal": ordinals, "score": _scores(ordinals), **texts}
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type) for f in layer.schema]
    return pa.table(arrays, schema=layer.schema)


def _scores(ordinals: Any) -> pa.Array:
    return pa.array((ordinals % 4 / 4).astype(np.float32))


def _commit(ledger: Ledger, layer: Layer, units: range, table: pa.Table, linked: int) -> None:
    """The files of these units, with the rows of `table`; those of units before `linked` hold the rows of another."""
    real: dict[str, str] = {}  # by folder
    for place, unit in enumerate(units):
        path = ledger.work.path(part_path(layer, unit, 0))
        folder = os.path.dirname(path)
        if unit < linked and folder in real:
            os.link(real[folder], path)
        else:
            os.makedirs(folder, exist_ok=True)
            rows = table.slice(place * UNIT_ROWS, UNIT_ROWS)
            pq.write_table(rows, path, compression="zstd", store_schema=False)
            real.setdefault(folder, path)
