"""Is it whole? An output, a work folder, a folder of shards or one shard is read from end to end.

What was damaged can mostly be made again from the rest: each problem says which files have to go for that, and the next run
does it.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.control.lock import hold, holder
from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.report.progress import Silent
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.check_embeddings import with_embeddings
from pairsift.pipeline.upkeep.check_records import look_at_places, look_at_records
from pairsift.pipeline.upkeep.check_shards import Expected, ShardCheck, uid_sum
from pairsift.pipeline.upkeep.check_work import UnitCheck, read_all_generations, unit_checks
from pairsift.pipeline.upkeep.problems import Findings, Problem, reason, spread
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder, is_remote

_AGAIN = "run again: nothing is computed again"
Json = dict[str, Any]


@dataclass
class Checked:
    """What a check came to. `looked` counts what was looked at, by kind."""

    problems: list[Problem] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> Json:
        return {"problems": [problem.as_dict() for problem in self.problems], "looked": self.looked}


def check(path: str, tell: Callable[[Problem], None], progress: Silent | None = None) -> Checked:
    """Read all of it. `tell` is told each problem when it is found. Raises ConfigError where `path` is nothing of ours."""
    shown = progress or Silent()
    found, tasks = Findings(), _Tasks()
    _look(path, found, tasks)
    if any(holder(folder) for folder in _to_lock(path)):
        shown.say("a run is at work here: what it has yet to finish may be told as missing")
    checked = Checked()
    every: list[ShardCheck | UnitCheck] = [*tasks.shards, *tasks.units]
    shown.begin("check", len(every), "shards and units")
    for findings in chain([found], spread(_call, every, os.cpu_count() or 1)):
        for problem in findings.problems:
            checked.problems.append(problem)
            tell(problem)
        checked.looked = dict(Counter(checked.looked) + Counter(findings.looked))
        shown.advance(0 if findings is found else 1)
    shown.end()
    return checked


def fix(path: str, problems: Sequence[Problem]) -> list[str]:
    """Remove what the problems' remedies name, and return it. Raises ConfigError while a run is at work there."""
    names = list(dict.fromkeys(name for problem in problems for name in problem.remove))
    with ExitStack() as stack:
        for folder in _to_lock(path) if names else ():
            stack.enter_context(hold(folder))
        for name in reversed(names):  # of a unit, later parts first; images last
            parent, _, last = name.rpartition("/")
            Folder(parent).remove(last)
    return names


def _to_lock(path: str) -> list[Folder]:
    """The output that `path` is, or is in, with its work folder; or the work folder that it is."""
    place = Folder(path)
    while not place.exists("cut.json") and not place.exists("generations"):
        parent = place.uri.rpartition("/")[0]
        if not parent or parent.endswith(("/", ":")):
            return []
        place = Folder(parent)
    work = _work_of(place)
    return [place] if work is None or work == place.uri else [place, Folder(work)]


@dataclass
class _Tasks:
    shards: list[ShardCheck] = field(default_factory=list)
    units: list[UnitCheck] = field(default_factory=list)


def _call(task: ShardCheck | UnitCheck) -> Findings:
    return task()


def _look(path: str, found: Findings, tasks: _Tasks) -> None:
    """Find out what `path` is; check what is small, and make tasks of the rest."""
    if path.endswith(".tar"):
        parent, _, name = Folder(path).uri.rpartition("/")
        tasks.shards += _shard_checks(Folder(parent), [name.removesuffix(".tar")], found)
        return
    folder = Folder(path)
    names = set(folder.names())
    if names & {"cut.json", "run.json", "fates.parquet"}:
        _look_at_output(folder, names, found, tasks)
    elif names & {"generations", "layers"}:
        _look_at_work(folder, found, tasks)
    elif shards := _shards_in(names):
        tasks.shards += _shard_checks(folder, shards, found)
    else:
        raise ConfigError(f"{path}: neither an output nor a work folder, nor a folder of shards, nor a shard's .tar")


def _look_at_work(work: Folder, found: Findings, tasks: _Tasks) -> None:
    generations = read_all_generations(work, found)
    if look_at_records(work, generations, found):
        tasks.units += unit_checks(work, generations, found)


def _shards_in(names: set[str]) -> list[str]:
    stems = {name.removesuffix(end) for name in names for end in (".tar", ".parquet", "_stats.json") if name.endswith(end)}
    return sorted(stem for stem in stems if stem.isdigit())


def _look_at_output(output: Folder, names: set[str], found: Findings, tasks: _Tasks) -> None:
    cut = _json(output, "cut.json", found, "run the config again")
    run = _json(output, "run.json", found, _AGAIN)
    if "cut.json" not in names:
        found.add(output.path("cut.json"), "is missing", "run the config again: nothing is computed again")
    if "run.json" not in names:
        found.add(output.uri, "no run has ended here", "run again: it goes on from where it is")
    work = _work_of(output, cut)
    expected = None
    if "fates.parquet" in names:
        retried = work is not None and any(g.retry for g in read_all_generations(Folder(work), Findings()))
        expected = _fates(output, run, found, without_gaps=not retried)
    elif "run.json" in names:
        found.add(output.path("fates.parquet"), "is missing", _AGAIN)
    shards = output / "shards"
    look_at_places(output, found)
    there = _shards_in(set(shards.names()))
    if expected is not None:
        missing = sorted(expected.keys() - set(there))
        if missing:
            what = f"fates.parquet names {len(missing):,} shards that are not there, {missing[0]} first"
            found.add(shards.uri, what, "run again: only those shards are written")
        for name in sorted(set(there) - expected.keys()):
            found.add(shards.path(f"{name}.tar"), "fates.parquet names no such shard", "run again: it is removed")
        there = [name for name in there if name in expected]
    config = (cut or {}).get("config") or {}
    checks = _shard_checks(shards, there, found, expected or {}, config)
    tasks.shards += with_embeddings(output, checks, found)
    if work:
        if (run or {}).get("rows") and not Folder(work).names("layers"):
            found.add(work, "holds nothing", "put it back; or run again: all of it is done again")
        _look_at_work(Folder(work), found, tasks)


def _work_of(output: Folder, cut: Json | None = None) -> str | None:
    """The work folder that an output names, or has inside; None where there is none."""
    if cut is None:
        cut = _json(output, "cut.json", Findings(), "")
    work = (cut or {}).get("work")
    if not isinstance(work, str):
        return output.path("work") if (output / "work").names("generations") else None
    return work if is_remote(work) or work.startswith("/") else output.path(work)


def _json(folder: Folder, name: str, found: Findings, remedy: str) -> Json | None:
    """A JSON object, or None where there is none; a damaged one is a problem."""
    path = folder.path(name)
    try:
        data = json.loads(folder.read(name))
        if isinstance(data, dict):
            return data
    except FileNotFoundError:
        return None
    except ValueError:
        pass
    found.add(path, "is damaged: it is no JSON object", f"remove {path} and {remedy}", [path])
    return None


def _shard_checks(
    shards: Folder, names: list[str], found: Findings, expected: dict[str, Expected] | None = None, config: Json | None = None
) -> list[ShardCheck]:
    sizes = _json(shards, "sizes.json", found, _AGAIN)
    if sizes is None and expected:
        sizes = {}
        if not shards.exists("sizes.json"):
            found.add(shards.path("sizes.json"), "is missing", _AGAIN)
    stages = [stage for stage in (config or {}).get("stages", []) if stage.get("use") == "download"]
    as_they_came = bool(stages) and all(stage.get("disable_all_reencoding") for stage in stages)
    ours = not config or bool(stages)
    tasks = []
    for name in names:
        size = (sizes or {}).get(f"{name}.tar")
        fates = expected[name] if expected else None
        tasks.append(ShardCheck(shards, name, size, fates, images_are_ours=ours, bodies_as_they_came=as_they_came))
    return tasks


def _fates(output: Folder, run: Json | None, found: Findings, *, without_gaps: bool) -> dict[str, Expected] | None:
    """Check fates.parquet, and return what it says of each shard; None where it cannot be read. A row that was tried again has
    a fate by its new ordinal only: that makes gaps."""
    path = output.path("fates.parquet")
    remedy, remove = f"remove {path} and {_AGAIN}", [path]
    counts: Counter[str] = Counter()
    shards: dict[str, Expected] = {}
    last = -1
    try:
        for batch in _batches(output):
            steps = np.diff(batch["ordinal"].to_numpy(), prepend=last)
            if np.any(steps != 1 if without_gaps else steps < 1):
                found.add(path, f"lacks a row, or has one twice, behind ordinal {last:,}", remedy, remove)
                return None
            last = batch["ordinal"][-1].as_py()
            counts.update(batch["status"].to_pylist())
            _note_shards(batch, shards)
    except (pa.ArrowException, OSError, KeyError) as error:
        found.add(path, f"cannot be read: {reason(error)}", remedy, remove)
        return None
    found.count("fates", counts.total())
    if run is not None and (run.get("rows"), _positive(run.get("counts") or {})) != (counts.total(), dict(counts)):
        told = output.path("run.json")
        what = f"says other counts than fates.parquet, which has {counts.total():,} rows"
        found.add(told, what, f"{_AGAIN}, and both are written", [])
    return shards


def _batches(output: Folder) -> Iterator[pa.RecordBatch]:
    for batch in tables.batches(output, "fates.parquet"):
        if batch.schema.names != FATES.names:
            raise OSError(f"its columns are {', '.join(batch.schema.names)}")
        yield batch


def _note_shards(batch: pa.RecordBatch, shards: dict[str, Expected]) -> None:
    named = batch.filter(batch["shard"].is_valid())
    for name in named["shard"].unique().to_pylist():
        rows = named.filter(pc.equal(named["shard"], name))
        expected = shards.setdefault(name, Expected())
        expected.rows += len(rows)
        expected.kept += pc.sum(pc.equal(rows["status"], Status.SUCCESS.value)).as_py() or 0
        expected.uids += uid_sum(rows["uid"])


def _positive(counts: Json) -> Json:
    return {status: rows for status, rows in counts.items() if rows}
