"""`--retry-failed`: rows that failed for a reason that may have passed are taken in again, as a generation of their own.

    work/retries/00003.parquet     of generation 3: which row each of its rows repeats, and in which layer that one failed

A repeated row has an ordinal of its own, and key, uid and columns of its original. Up to the stage at which that failed it
shares its verdicts, so that it is not its own duplicate and displaces nobody; from there on it stands for itself, after all
rows that came before it. The original has no fate any more: one input row, one fate. Where a config does not have that layer
(the image size was changed, say), all of it is as if nobody had tried again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.copies import IntakeCopies
from pairsift.pipeline.ledger.intake import Generation, Intake, unit_rows
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers
from pairsift.pipeline.ledger.records import read_table
from pairsift.pipeline.plan import Plan
from pairsift.stages.storage import Folder

_SCHEMA = pa.schema([pa.field("ordinal", pa.int64()), pa.field("original", pa.int64()), pa.field("layer", pa.string())])


@dataclass(frozen=True)
class Retries:
    """The repeated rows of a plan, by ordinal, in order; arrays of one length."""

    ordinals: Numbers
    originals: Numbers  # the row that each repeats, which may be a repeated one itself
    steps: Numbers  # where that one failed; -1 where the plan does not have that layer

    @property
    def counted(self) -> Numbers:
        """bool: whether the plan has the layer in which the original failed."""
        mask: Numbers = self.steps >= 0
        return mask

    def sharing(self, step: int) -> Numbers:
        """bool: whether the original failed after the step, so that what the step says of it is said of both."""
        mask: Numbers = self.steps > step
        return mask

    def left_out(self, rows: int) -> Numbers:
        """bool for each of `rows` rows: it has no fate, as a repeated row stands for it, or it is one that does not count."""
        mask = np.zeros(rows, bool)
        mask[self.originals[self.counted]] = True
        mask[self.ordinals[~self.counted]] = True
        return mask

    def keys(self, ordinals: pa.Array) -> pa.Array:
        """The ordinals that the rows' keys tell: of the rows that were first taken in. Null stays null."""
        if not len(self.ordinals):
            return ordinals
        found = ordinals.fill_null(-1).to_numpy().copy()
        while True:
            places = np.searchsorted(self.ordinals, found)
            places[places == len(self.ordinals)] = 0
            repeated = self.ordinals[places] == found
            if not repeated.any():
                return pa.array(found, mask=found < 0)
            found[repeated] = self.originals[places[repeated]]


def read_retries(ledger: Ledger, generations: list[Generation], plan: Plan, rows: int) -> Retries:
    """What the generations repeat, of the first `rows` rows."""
    steps = {step.layer.name: step.index for step in plan.steps if step.layer}
    tables = [_read(ledger.work, g.number) for g in generations if g.retry]
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    ordinals = table["ordinal"].to_numpy()
    here = ordinals < rows
    found = np.array([steps.get(name, -1) for name in table["layer"].to_pylist()], np.int64)
    return Retries(ordinals[here], table["original"].to_numpy()[here], found[here])


def take_in_again(intake: Intake, ledger: Ledger, layer: Layer, failed: pa.Table) -> list[Generation]:
    """Make a generation of the rows in `failed` (original: ordinals in order; layer: in which each failed). `layer` is layer 0.

    Returns all generations; no new one for no rows.
    """
    generations = intake.generations()
    if not len(failed):
        return generations
    last = generations[-1]
    first_unit, first = last.first_unit + last.units, last.end_ordinal
    originals = failed["original"].to_numpy()
    ordinals = np.arange(first, first + len(originals))
    with IntakeCopies(ledger.work, layer, last.unit_rows, first_unit) as copies:
        for number, part in enumerate(_parts(originals, last.unit_rows)):
            table = _rows(ledger, layer, generations, part)
            start = number * last.unit_rows
            table = table.set_column(0, layer.schema.field(0), pa.array(ordinals[start : start + len(part)]))
            ledger.write_intake(layer, first_unit + number, table)
            copies.add(first_unit + number, table)
    sink = BytesIO()
    pq.write_table(
        pa.table([pa.array(ordinals), failed["original"], failed["layer"]], schema=_SCHEMA), sink, compression="zstd"
    )
    ledger.work.write(_path(last.number + 1), sink.getvalue())
    return intake.add(
        Generation(
            number=last.number + 1,
            intake=layer.name,
            unit_rows=last.unit_rows,
            first_unit=first_unit,
            first_ordinal=first,
            rows=len(originals),
            retry=True,
            sources=(),
        )
    )


def _read(work: Folder, generation: int) -> pa.Table:
    try:
        return read_table(work, _path(generation))
    except FileNotFoundError as error:
        path = work.path(_path(generation))
        raise OSError(f"{path}: is missing, and nothing can make it again; put it back from a copy") from error


def _path(generation: int) -> str:
    return f"retries/{generation:05d}.parquet"


def _parts(ordinals: Numbers, rows: int) -> Iterator[Numbers]:
    for start in range(0, len(ordinals), rows):
        yield ordinals[start : start + rows]


def _rows(ledger: Ledger, layer: Layer, generations: list[Generation], ordinals: Numbers) -> pa.Table:
    """Rows of layer 0, by their ordinals, which are in order."""
    parts, start = [], 0
    while start < len(ordinals):
        unit = _unit_of(generations, int(ordinals[start]))
        first, end = unit_rows(generations, unit)
        stop = int(np.searchsorted(ordinals, end))
        table = ledger.read(layer, unit, (*layer.columns, "failure_detail"))
        if table is None:
            raise OSError(f"{ledger.work.uri}: unit {unit} of the input layer is missing")
        parts.append(table.select(layer.schema.names).take(pa.array(ordinals[start:stop] - first)))
        start = stop
    return pa.concat_tables(parts).combine_chunks()


def _unit_of(generations: list[Generation], ordinal: int) -> int:
    g = next(g for g in generations if ordinal < g.end_ordinal)
    return g.first_unit + (ordinal - g.first_ordinal) // g.unit_rows
