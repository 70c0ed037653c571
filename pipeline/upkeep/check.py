"""Is it whole? An output, a work folder, a folder of shards or one shard is read from end to end.

What was damaged can mostly be made again from the rest: each problem says which files have to go for that, and the next run
does it.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pairsift.pipeline.control.lock import hold, holder
from pairsift.pipeline.report.progress import Silent
from pairsift.pipeline.upkeep.check_embeddings import with_embeddings
from pairsift.pipeline.upkeep.check_fates import look_at_fates
from pairsift.pipeline.upkeep.check_records import look_at_places, look_at_records
from pairsift.pipeline.upkeep.check_release import look_at_release
from pairsift.pipeline.upkeep.check_shards import Expected, ShardCheck
from pairsift.pipeline.upkeep.check_unit import UnitCheck
from pairsift.pipeline.upkeep.check_work import read_all_generations, unit_checks
from pairsift.pipeline.upkeep.problems import AGAIN, Findings, Problem, spread
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder, is_remote

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
    run = _json(output, "run.json", found, AGAIN)
    if "cut.json" not in names:
        found.add(output.path("cut.json"), "is missing", "run the config again: nothing is computed again")
    if "run.json" not in names:
        found.add(output.uri, "no run has ended here", "run again: it goes on from where it is")
    work = _work_of(output, cut)
    expected = kept = None
    if "fates.parquet" in names:
        retried = work is not None and any(g.retry for g in read_all_generations(Folder(work), Findings()))
        expected, kept = look_at_fates(output, run, found, without_gaps=not retried)
    elif "run.json" in names:
        found.add(output.path("fates.parquet"), "is missing", AGAIN)
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
    if "run.json" in names:
        look_at_release(output, config.get("release"), kept, found)
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
    sizes = _json(shards, "sizes.json", found, AGAIN)
    if sizes is None and expected:
        sizes = {}
        if not shards.exists("sizes.json"):
            found.add(shards.path("sizes.json"), "is missing", AGAIN)
    stages = [stage for stage in (config or {}).get("stages", []) if stage.get("use") == "download"]
    as_they_came = bool(stages) and all(stage.get("disable_all_reencoding") for stage in stages)
    ours = not config or bool(stages)
    tasks = []
    for name in names:
        size = (sizes or {}).get(f"{name}.tar")
        fates = expected[name] if expected else None
        tasks.append(ShardCheck(shards, name, size, fates, images_are_ours=ours, bodies_as_they_came=as_they_came))
    return tasks
