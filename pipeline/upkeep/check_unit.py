"""One unit of the ledger: does each layer hold what it may hold, and is every image where it is said to be?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pairsift.pipeline.ledger.freed import FreedImages
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import unit_path
from pairsift.pipeline.ledger.tombstones import Tombstones
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.archives import DamagedTarError, Member, image_fault, walk
from pairsift.pipeline.upkeep.problems import Findings, reason
from pairsift.stages.storage import Folder, is_remote

_REFERENCE = ("image_path", "image_offset", "image_length")
_REMOVED = "is of a row that was removed on request, and its bytes are still there"


class Reference(NamedTuple):
    """Where a layer's row says that its image is. `file` is the layer's file."""

    ordinal: int
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class UnitCheck:
    """What the layers hold of one unit, to be looked at in any process."""

    work: Folder
    unit: int
    first: int  # ordinals [first, end)
    end: int
    generation: Generation
    is_last: bool  # whether no generation follows
    layers: tuple[tuple[str, str, int], ...]  # name, schema as text, how many parts

    def __call__(self) -> Findings:
        found = Findings()
        for name, schema, parts in self.layers:
            references: dict[str, list[Reference]] = {}
            seen: set[int] = set()
            for part in range(parts):
                table = self._table(found, name, schema, part)
                if table is None:
                    break
                found.count("layer files")
                ordinals = set(table["ordinal"].to_pylist())
                if ordinals & seen:
                    self.bad(found, name, part, "holds rows that an earlier part of the unit holds")
                    break
                seen |= ordinals
                self._collect(table, self._file(name, part), references)
            if name == self.generation.intake and parts and not found.problems and len(seen) != self.end - self.first:
                self.bad(found, name, 0, f"holds {len(seen):,} of the unit's {self.end - self.first:,} rows")
            for path, wanted in references.items():
                self._images(found, name, parts, path, wanted)
        return found

    def _file(self, layer: str, part: int) -> str:
        return self.work.path(f"layers/{layer}/{unit_path(self.unit)}{f'-{part}' if part else ''}.parquet")

    def _table(self, found: Findings, name: str, schema: str, part: int) -> pa.Table | None:
        try:
            with self.work.filesystem.open(self._file(name, part), "rb") as file:
                table = tables.parse(file.read())
        except (pa.ArrowException, OSError) as error:
            self.bad(found, name, part, f"cannot be read: {reason(error)}")
            return None
        if schema_text(table.schema) != schema:
            self.bad(found, name, part, "has other columns than the layer's other files")
            return None
        ordinals = table["ordinal"].to_numpy()
        if len(ordinals) and (np.any(np.diff(ordinals) <= 0) or ordinals[0] < self.first or ordinals[-1] >= self.end):
            self.bad(found, name, part, f"has rows that are not in order, or not of unit {self.unit}")
            return None
        return table

    def bad(self, found: Findings, name: str, part: int, what: str) -> None:
        path = self._file(name, part)
        if name != self.generation.intake:
            remove = self.files_from(name, part)
            found.add(path, what, f"{removal_of(remove)} and run again: only unit {self.unit} is computed again", remove)
        elif self.is_last:
            generation = self.work.path(f"generations/{self.generation.number:05d}.json")
            what_next = f"if its input files are as they were, remove {generation} and run again: they are taken in again"
            found.add(path, what, what_next)
        else:
            found.add(path, what, "put it back from a copy: generations after it count on its rows")

    def _parts_of(self, name: str) -> int:
        return next((parts for layer, _, parts in self.layers if layer == name), 0)

    def files_from(self, name: str, part: int) -> list[str]:
        """The part and those after it, which the ledger would not find without it; and, where the layer has images, what may
        have been computed from them: a server may send other bytes the next time."""
        files = [self._file(name, p) for p in range(part, self._parts_of(name))]
        if "image_path" not in next(schema for n, schema, _ in self.layers if n == name):
            return files
        for other, schema, parts in self.layers:
            if other not in (name, self.generation.intake) and "image_path" not in schema:
                files += [self._file(other, p) for p in range(parts)]
        return files

    def _collect(self, table: pa.Table, file: str, references: dict[str, list[Reference]]) -> None:
        if "image_path" not in table.column_names:
            return
        for row in table.select(["ordinal", *_REFERENCE]).filter(table["image_path"].is_valid()).to_pylist():
            reference = Reference(row["ordinal"], file, row["image_offset"], row["image_length"])
            references.setdefault(row["image_path"], []).append(reference)

    def _images(self, found: Findings, name: str, parts: int, path: str, wanted: list[Reference]) -> None:
        if is_remote(path) or path.startswith("/"):
            self._source(found, path, wanted)
            return
        found.count("payloads")
        faults = list(self._payload_faults(path, {reference.offset: reference for reference in wanted}))
        full = self.work.path(path)
        left = [fault for fault in faults if fault.endswith(_REMOVED)]
        if left:
            found.add(full, f"{left[0]}{_more(left)}", "the same `pairsift remove` again overwrites them")
        faults = [fault for fault in faults if fault not in left]
        if not faults:
            return
        part = next(p for p in range(parts) if self._file(name, p) == wanted[0].file)
        remove = [*([full] if self.work.exists(path) else []), *self.files_from(name, part)]
        what_next = f"{removal_of(remove)} and run again: only unit {self.unit} is done again, its images downloaded"
        found.add(full, f"{faults[0]}{_more(faults)}", what_next, remove)

    def _payload_faults(self, path: str, wanted: dict[int, Reference]) -> Iterator[str]:
        left = dict(wanted)
        removed, freed = self._removed(), self._freed(path)
        try:
            size = self.work.filesystem.size(self.work.path(path))
            with self.work.filesystem.open(self.work.path(path), "rb") as file:
                for member in walk(file, size):
                    reference = left.pop(member.offset, None)
                    if reference is None:
                        continue
                    if reference.ordinal in removed:
                        fault = _REMOVED if any(member.data) else None
                    elif reference.ordinal in freed:
                        fault = None
                    else:
                        fault = self._member_fault(member, reference)
                    if fault:
                        yield f"{member.name} {fault}"
        except FileNotFoundError:
            yield "is missing"
            return
        except DamagedTarError as error:
            yield f"is damaged: {error}"
            return
        if left:
            yield f"has nothing at byte {next(iter(left)):,}, where a layer says an image is"

    def _member_fault(self, member: Member, reference: Reference) -> str | None:
        if len(member.data) != reference.length:
            return f"has {len(member.data):,} bytes, and a layer says {reference.length:,}"
        if not self.generation.retry and not member.name.startswith(f"{reference.ordinal:09d}."):
            return f"is where a layer says that row {reference.ordinal} is"
        return image_fault(member.data, member.name.partition(".")[2])

    def _removed(self) -> set[int]:
        """Rows of the unit that were removed on request: their images are zeros."""
        tombstones = Tombstones.load(self.work)
        removed: set[int] = set()
        for name, schema, parts in self.layers:
            columns = [column for column, _ in tombstones.columns(field.split(" ")[0] for field in schema.split(", "))]
            for part in range(parts if columns else 0):
                with self.work.filesystem.open(self._file(name, part), "rb") as file:
                    table = tables.parse(file.read(), ["ordinal", *columns])
                removed |= set(table["ordinal"].filter(pa.array(tombstones.mask(table))).to_pylist())
        return removed

    def _freed(self, payload: str) -> set[int]:
        """Rows of the unit whose images in a payload `clean --rejects` has given up: they may be zeros."""
        return set(FreedImages(self.work, payload.split("/")[1]).between(self.first, self.end).tolist())

    def _source(self, found: Findings, path: str, wanted: list[Reference]) -> None:
        """A source tar is not ours: only whether it still reaches as far as the layer counts on."""
        found.count("source tars")
        end = max(reference.offset + reference.length for reference in wanted)
        try:
            size = Folder(path).filesystem.size(path)
        except FileNotFoundError:
            found.add(path, "is missing; images of the input lie in it", "put it back: it is not copied before it is packed")
            return
        if size < end:
            found.add(path, f"has {size:,} bytes, and images up to {end:,} are wanted", "put the file back as it was")


def _more(faults: list[str]) -> str:
    return f" (and {len(faults) - 1:,} more like it)" if len(faults) > 1 else ""


def removal_of(paths: list[str]) -> str:
    """The remedy's first words."""
    return "remove " + " and ".join(paths)


def schema_text(schema: pa.Schema) -> str:
    """Names and types, to compare and to pickle."""
    return ", ".join(f"{field.name} {field.type}" for field in schema)
