"""The ledger: is every generation, and every unit's file of every layer, there and in its place?"""

import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pairsift.pipeline.ledger.intake import Generation, follows, unit_rows
from pairsift.pipeline.ledger.layers import UNITS_PER_FOLDER, unit_path
from pairsift.pipeline.upkeep.check_unit import UnitCheck, removal_of, schema_text
from pairsift.pipeline.upkeep.problems import Findings
from pairsift.stages.storage import Folder

_FILE = re.compile(r"(\d{9})(?:-(\d+))?\.parquet")
_SCHEMAS_READ = 5  # files whose schema is read to know what the layer's is


def read_all_generations(work: Folder, found: Findings) -> list[Generation]:
    """The generations in order, as far as they can be read and follow each other."""
    generations: list[Generation] = []
    names = work.names("generations")
    for name in names:
        path = work.path(f"generations/{name}")
        last = name == names[-1]
        try:
            generation = Generation.model_validate_json(work.read(f"generations/{name}"))
        except ValidationError as error:
            what = error.errors(include_url=False)[0]["msg"]
            found.add(path, f"cannot be read: {what}", *_taken_in_again(path, last=last))
            return generations
        if not follows(generation, generations[-1] if generations else None):
            expected = work.path(f"generations/{len(generations):05d}.json")
            found.add(path, "does not follow the generation before it", f"put {expected} back from a copy")
            return generations
        found.count("generations")
        generations.append(generation)
    return generations


def _taken_in_again(path: str, *, last: bool) -> tuple[str, list[str]]:
    """Nothing that may be removed unasked: whether the input files are as they were is for people to say."""
    if last:
        return (
            f"if its input files are as they were, remove {path} and run again: they are taken in again, to the same rows",
            [],
        )
    return f"put {path} back from a copy: generations after it count on it", []


def unit_checks(work: Folder, generations: list[Generation], found: Findings) -> list[UnitCheck]:
    """One task per unit, over all layers; what can be seen from the names is checked here."""
    units = sum(g.units for g in generations)
    layers: dict[int, list[tuple[str, str, int]]] = {unit: [] for unit in range(units)}
    lost: set[int] = set()
    for name in work.names("layers"):
        parts = _parts(work, name, found)
        schema = _schema(work, name, parts)
        for unit, count in parts.items():
            if unit < units:
                layers[unit].append((name, schema, count))
            elif not name.startswith("input-"):  # of layer 0, an intake that was cut short left it; the next writes over it
                lost.add(unit)
    if lost and len(work.names("generations")) == len(generations):  # else one that cannot be read holds them
        _tell_lost(work, len(generations), lost, found)
    tasks = []
    for unit, its_layers in layers.items():
        generation = next(g for g in generations if unit < g.first_unit + g.units)
        first, end = unit_rows(generations, unit)
        task = UnitCheck(work, unit, first, end, generation, generation == generations[-1], tuple(its_layers))
        if generation.intake not in [name for name, _, _ in its_layers]:
            task.bad(found, generation.intake, 0, "is missing")
        tasks.append(task)
    return tasks


def _tell_lost(work: Folder, generation: int, units: set[int], found: Findings) -> None:
    """Stages have worked on units that no generation holds."""
    path = work.path(f"generations/{generation:05d}.json")
    what = f"is missing: it held unit {min(units)}, on which stages have worked"
    again = "if its input files are as they were, run again: they are taken in again"
    found.add(path, what, f"put it back from a copy; or, {again}")


def _parts(work: Folder, layer: str, found: Findings) -> dict[int, int]:
    """Unit → how many parts it has, as far as they follow each other."""
    there: dict[int, set[int]] = {}
    for folder in work.names(f"layers/{layer}"):
        for name in work.names(f"layers/{layer}/{folder}"):
            match = _FILE.fullmatch(name)
            path = work.path(f"layers/{layer}/{folder}/{name}")
            if match is None or int(match[1]) // UNITS_PER_FOLDER != int(folder):
                found.add(path, "is no file of a layer", f"remove {path}", [path])
                continue
            there.setdefault(int(match[1]), set()).add(int(match[2] or 0))
    counts = {}
    for unit, parts in there.items():
        count = counts[unit] = next(n for n in range(len(parts) + 1) if n not in parts)
        late = [work.path(f"layers/{layer}/{unit_path(unit)}-{part}.parquet") for part in sorted(parts) if part > count]
        if late:
            what = "is there, and a part before it is missing"
            found.add(late[0], what, f"{removal_of(late)} and run again: only unit {unit} is computed again", late)
    return {unit: count for unit, count in counts.items() if count}


def _schema(work: Folder, layer: str, parts: dict[int, int]) -> str:
    """What most of the first files that can be read have."""
    seen: Counter[str] = Counter()
    for unit in sorted(parts)[:_SCHEMAS_READ]:
        try:
            data = work.read(f"layers/{layer}/{unit_path(unit)}.parquet")
            seen[schema_text(pq.read_schema(pa.BufferReader(data)))] += 1
        except (pa.ArrowException, OSError):
            continue
    return seen.most_common(1)[0][0] if seen else ""
