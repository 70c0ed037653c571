"""Intake: whatever a reader gives becomes layer 0, in units of `unit_rows` rows, each row with an ordinal for ever.

    work/generations/00000.json    one intake: its sources, its rows, where its units and ordinals begin

New files make a new generation whose ordinals follow; what was taken in never moves. A generation counts once its file
is there; one that was cut short is taken in again from its start, to the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pairsift.pipeline.ledger.copies import IntakeCopies
from pairsift.pipeline.ledger.intake_images import store_images
from pairsift.pipeline.ledger.layers import UNITS_PER_FOLDER, Layer, Ledger
from pairsift.stages import schema
from pairsift.stages.base import ConfigError, Reader, Source
from pairsift.stages.storage import Folder


class Generation(BaseModel):
    """One intake of input files. Its units hold `unit_rows` rows each, the last one what is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    intake: str  # name of layer 0
    unit_rows: int
    first_unit: int
    first_ordinal: int
    rows: int
    retry: bool = False  # its rows repeat rows that failed: see ledger/retry.py
    sources: tuple[Source, ...]

    @property
    def units(self) -> int:
        return -(-self.rows // self.unit_rows)

    @property
    def end_ordinal(self) -> int:
        return self.first_ordinal + self.rows


class Intake:
    """The generations of one work folder."""

    def __init__(self, ledger: Ledger, layer: Layer, reader: Reader) -> None:
        self._ledger, self._layer, self._reader = ledger, layer, reader

    def generations(self) -> list[Generation]:
        """What has been taken in. Raises ConfigError where the work folder holds another input."""
        found = read_generations(self._ledger)
        for generation in found:
            if generation.intake != self._layer.name:
                raise ConfigError(
                    f"{self._ledger.work.uri}: holds the run of another input (or of this one read in another way: columns, "
                    "unit_rows); name another `output` or `work`, or remove this one"
                )
        return found

    def new_sources(self) -> list[Source]:
        """Input files that no generation holds. Raises ConfigError where one that was taken in has changed since."""
        taken = {source.uri: source for generation in self.generations() for source in generation.sources}
        listed = self._reader.sources()
        if taken and not any(source.uri in taken for source in listed):
            raise ConfigError(
                f"{self._ledger.work.uri}: holds the run of another input; name another `output` or `work`, or remove this one"
            )
        for source in listed:
            if source.uri in taken and taken[source.uri] != source:
                raise ConfigError(
                    f"{source.uri}: has changed since it was taken in; add rows as a new file, or name a new `output`"
                )
        return [source for source in listed if source.uri not in taken]

    def take_in(self, progress: Callable[[int], None] | None = None) -> list[Generation]:
        """Take in what is new; returns all generations. `progress` is told how many rows are in."""
        generations = self.generations()
        sources = self.new_sources()
        if not sources:
            return generations
        first_unit = sum(g.units for g in generations)
        first_ordinal = sum(g.rows for g in generations)
        rows = 0
        given = self._rows(sources)
        if schema.IMAGE.name in self._reader.schema().names:
            places = {"unit_rows": self._reader.unit_rows, "first_unit": first_unit, "first_ordinal": first_ordinal}
            given = store_images(given, self._ledger, self._layer, **places)
        lost = self._lost_units(first_unit)
        with IntakeCopies(self._ledger.work, self._layer, self._reader.unit_rows, first_unit) as copies:
            for unit, table in enumerate(_units(given, self._reader.unit_rows), first_unit):
                layer0 = _number(table, first_ordinal + rows, self._layer)
                if unit in lost:
                    self._refuse_other_rows(len(generations), unit, layer0)
                self._ledger.write_intake(self._layer, unit, layer0)
                copies.add(unit, layer0)
                rows += len(table)
                if progress:
                    progress(rows)
        generation = Generation(
            number=len(generations),
            intake=self._layer.name,
            unit_rows=self._reader.unit_rows,
            first_unit=first_unit,
            first_ordinal=first_ordinal,
            rows=rows,
            sources=tuple(sources),
        )
        return self.add(generation)

    def _lost_units(self, first: int) -> set[int]:
        """Units from `first` on that stages have worked on: a generation held them, and its file has been lost."""
        work, found = self._ledger.work, set[int]()
        for layer in work.names("layers"):
            for folder in map(int, work.names(f"layers/{layer}")) if layer != self._layer.name else ():
                if folder >= first // UNITS_PER_FOLDER:
                    found |= {unit for unit, _ in self._ledger.parts_in(layer, folder) if unit >= first}
        return found

    def _refuse_other_rows(self, generation: int, unit: int, table: pa.Table) -> None:
        """Raise OSError where other rows stand in a unit that was lost: what stages said of them would be said of these."""
        names = ["ordinal", "uid"]
        try:
            before = self._ledger.read(self._layer, unit, ["uid"])
        except OSError:  # damaged: that is why it is taken in again
            return
        if before is not None and not before.select(names).equals(table.select(names)):
            path = self._ledger.work.path(f"generations/{generation:05d}.json")
            raise OSError(
                f"{path}: is missing, and the input has other rows now than it took in; put it back from a copy, or name "
                "another `output` and `work`"
            )

    def add(self, generation: Generation) -> list[Generation]:
        """Have a generation count, whose units are all there; returns all generations."""
        text = json.dumps(generation.model_dump(mode="json"), indent=1)
        self._ledger.work.write(f"generations/{generation.number:05d}.json", text.encode())
        return self.generations()

    def _rows(self, sources: list[Source]) -> Iterator[pa.Table]:
        given = [f for f in self._reader.schema() if f.name != schema.KEY.name]
        wanted = pa.schema([*given, schema.FAILURE, schema.FAILURE_DETAIL])
        for source in sources:
            for table in self._reader.read(source):
                columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in wanted]
                yield pa.table(columns, schema=wanted)


def read_generations(ledger: Ledger) -> list[Generation]:
    """The generations of a work folder, in order. Raises OSError for a damaged one, and where one is missing between."""
    found: list[Generation] = []
    for name in ledger.work.names("generations"):
        generation = _generation(ledger.work, f"generations/{name}")
        if not follows(generation, found[-1] if found else None):
            path = ledger.work.path(f"generations/{name}")
            raise OSError(f"{path}: does not follow the generation before it; `pairsift check` says what to do")
        found.append(generation)
    return found


def follows(generation: Generation, before: Generation | None) -> bool:
    """Whether its number, units and ordinals follow those of the generation before it; None: it should be the first."""
    expected = (before.number + 1, before.first_unit + before.units, before.end_ordinal) if before else (0, 0, 0)
    return (generation.number, generation.first_unit, generation.first_ordinal) == expected


def _generation(work: Folder, name: str) -> Generation:
    try:
        return Generation.model_validate_json(work.read(name))
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"]
        raise OSError(f"{work.path(name)}: damaged: {what}; `pairsift check` says what to do") from error


def unit_rows(generations: list[Generation], unit: int) -> tuple[int, int]:
    """[first, end) ordinals of a unit."""
    generation = next(g for g in generations if g.first_unit <= unit < g.first_unit + g.units)
    first = generation.first_ordinal + (unit - generation.first_unit) * generation.unit_rows
    return first, min(first + generation.unit_rows, generation.end_ordinal)


def _units(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, whatever the lengths that come in; the last may be shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count < rows:
            continue
        joined = pa.concat_tables(waiting)
        start = 0
        while count - start >= rows:
            yield joined.slice(start, rows)
            start += rows
        waiting, count = [joined.slice(start)], count - start
    if count:
        yield pa.concat_tables(waiting)


def _number(table: pa.Table, first: int, layer: Layer) -> pa.Table:
    """Add ordinal, key and uid."""
    ordinals = np.arange(first, first + len(table))
    own = table["uid"].to_pylist() if "uid" in table.column_names else [None] * len(table)
    pairs = zip(own, _texts(table, "url"), _texts(table, "caption"), ordinals.tolist(), strict=True)
    columns = {
        "ordinal": pa.array(ordinals),
        "key": pa.array([f"{ordinal:09d}" for ordinal in ordinals], pa.string()),
        "uid": pa.array([uid or _uid(url, caption, ordinal) for uid, url, caption, ordinal in pairs], pa.string()),
    }
    arrays = [columns[name] if name in columns else table[name].combine_chunks() for name in layer.schema.names]
    return pa.table(arrays, schema=layer.schema)


def _texts(table: pa.Table, name: str) -> list[str | None]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _uid(url: str | None, caption: str | None, ordinal: int) -> str:
    """128 bits over url and caption; over the ordinal where there is no URL, since such rows are told apart by place only."""
    parts = (url, caption) if url is not None else (f"row {ordinal}", caption)
    text = "\0".join(part or "" for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
