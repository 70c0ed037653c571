"""What is there and what is left to do, found without doing any of it."""

import os
import shutil
from dataclasses import asdict, dataclass, field
from typing import Any

from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.cut import dealt
from pairsift.pipeline.cut.cut import Cut, Held
from pairsift.pipeline.ledger.intake import Intake
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.tombstones import held_places
from pairsift.pipeline.pack.shards import ShardTask, broken_seals, planned_shards, shards_to_write
from pairsift.pipeline.plan import Plan, Step, make_plan
from pairsift.pipeline.report.manifest import read_json, replaced
from pairsift.stages import schema
from pairsift.stages.base import ConfigError, Filter, Selector, Source, Stage
from pairsift.stages.storage import Folder, is_remote

_BYTES_BESIDE_IMAGE = 4096  # of a sample: three tar headers, padding, JSON, caption


@dataclass
class StepSurvey:
    """One step. `done` and `waiting` count rows, for stages only; `waiting` is what is known to be left: rows that an
    earlier stage has yet to compute may add to it.

    What waiting rows will take is forecast from the means so far: `bytes_waiting` of images that a stage stores, from what its
    layer holds; `seconds_waiting` in the stage, added up over workers, from the last run. None where nothing is known.
    """

    index: int
    kind: str
    label: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    layer: str | None = None
    done: int | None = None
    waiting: int | None = None
    bytes_done: int | None = None
    bytes_waiting: int | None = None
    seconds_waiting: float | None = None
    why: str | None = None  # rows wait
    dealt: str | None = None  # how a selector's work is dealt out, where it is


@dataclass
class ShardSurvey:
    """What packing would do. Known when nothing waits."""

    wanted: int  # shards of this cut
    unchanged: int  # of these, there already with the same members
    to_write: int
    to_remove: int  # there now, and not in this cut
    bytes_to_write: int  # about


@dataclass
class Survey:
    """How far a config has come."""

    output: str
    work: str
    rows: int  # taken in so far
    tried_again: int  # rows of generations that --retry-failed made, which are no new rows
    generations: int
    units: int
    new_sources: list[Source] = field(default_factory=list)
    steps: list[StepSurvey] = field(default_factory=list)
    shards: ShardSurvey | None = None
    replaced: str | None = None  # why a run needs --replace, as far as that is known
    report: dict[str, Any] | None = None  # run.json
    free: dict[str, int] = field(default_factory=dict)  # bytes, by folder, where that is known

    @property
    def complete(self) -> bool:
        return not self.new_sources and all(not step.waiting for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        return {
            **{
                name: getattr(self, name)
                for name in ("output", "work", "rows", "tried_again", "generations", "units", "complete")
            },
            "new_sources": [source.model_dump() for source in self.new_sources],
            "steps": [asdict(step) for step in self.steps],
            "shards": asdict(self.shards) if self.shards else None,
            "replaced": self.replaced,
            "free": self.free,
            "report": self.report,
        }


def survey(config: Config, limit: int | None = None) -> Survey:
    """Look at a config's work and output. Raises ConfigError as a run would."""
    plan = make_plan(config)
    ledger = Ledger(config.work)
    intake = Intake(ledger, plan.intake, config.input)
    generations = intake.generations()
    found = Survey(
        output=config.output,
        work=config.work,
        rows=sum(g.rows for g in generations if not g.retry),
        tried_again=sum(g.rows for g in generations if g.retry),
        generations=len(generations),
        units=sum(g.units for g in generations),
        new_sources=intake.new_sources(),
        steps=[_step(step, plan.config, sum(g.rows for g in generations)) for step in plan.steps],
        replaced=replaced(Folder(config.output), plan, limit),
        report=read_json(Folder(config.output), "run.json"),
        free={folder: free for folder in (config.work, config.output) if (free := _free(folder)) is not None},
    )
    with Cut(plan, ledger, generations, limit) as cut:
        waiting = {pending.step: pending.rows for pending in cut.play(len(plan.steps))}
        for step in plan.steps:
            if step.layer:
                _look_at_layer(found.steps[step.index], step, cut.held(step.layer), waiting.get(step.index, 0), found.report)
        if found.complete and plan.packs:
            cut.hold_places(held_places(Folder(config.output), plan.cut_fingerprint()))
            tasks = planned_shards((fates for fates, _ in cut.fates(plan.config.shards)), plan)
            found.shards = _look_at_shards(cut, plan, tasks)
            found.replaced = found.replaced or broken_seals(Folder(config.output), tasks, plan)
    return found


def _dealt(step: Step, config: Config, rows: int) -> str | None:
    """What a run over so many rows does with a selector."""
    if not isinstance(step.entry, Selector):
        return None
    count = dealt.partitions(config, "ray", rows)
    if count == 1:
        return None
    if not dealt.dealable(step.entry):
        return "one process sees all rows: this rule cannot be dealt out"
    if config.cut_partitions is None:
        return f"dealt out to tasks, in up to {count:,} partitions, if it runs on Ray"
    return f"dealt out to tasks, in {count:,} partitions"


def _look_at_layer(found: StepSurvey, step: Step, held: Held, waiting: int, report: dict[str, Any] | None) -> None:
    found.done, found.waiting = held.rows, waiting
    if step.makes_images:
        found.bytes_done = held.image_bytes
        found.bytes_waiting = round(held.image_bytes / held.rows * waiting) if held.rows else None
    computed = (report or {}).get("rows_computed", {}).get(step.label)
    if computed:
        found.seconds_waiting = (
            round(report["seconds_per_stage"].get(step.label, 0) / computed * waiting, 1) if report else None
        )
    if waiting:
        found.why = (
            "rows that came alive or were not reached" if held.rows else "never run with these parameters on these columns"
        )


def _look_at_shards(cut: Cut, plan: Plan, tasks: list[ShardTask]) -> ShardSurvey:
    output = Folder(plan.config.output)
    todo = shards_to_write(plan, tasks)
    there = {name.removesuffix("_stats.json") for name in output.names("shards") if name.endswith("_stats.json")}
    layer = plan.layer_of(schema.IMAGE_LENGTH.name)
    held = cut.held(layer)
    sample = held.image_bytes / max(1, held.images) + _BYTES_BESIDE_IMAGE
    return ShardSurvey(
        wanted=len(tasks),
        unchanged=len(tasks) - len(todo),
        to_write=len(todo),
        to_remove=len(there - {task.name for task in tasks}),
        bytes_to_write=round(sum(task.samples for task in todo) * sample),
    )


def _free(folder: str) -> int | None:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    if is_remote(folder):
        return None
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _step(step: Step, config: Config, rows: int) -> StepSurvey:
    entry = step.entry
    kind = "stage" if isinstance(entry, Stage) else "filter" if isinstance(entry, Filter) else "selector"
    layer = step.layer.name if step.layer else None
    return StepSurvey(
        step.index, kind, step.label, tuple(entry.reads()), tuple(step.writes.names), layer, dealt=_dealt(step, config, rows)
    )


def output_config(output: str) -> Config:
    """The config that an output folder was last run with. Raises ConfigError where there is none."""
    claimed = read_json(Folder(output), "cut.json")
    if claimed is None:
        raise ConfigError(f"{output}: not an output of pairsift (it has no cut.json); give an output folder or a config")
    folder = Folder(output)
    work = claimed["work"]
    inside = not is_remote(work) and not work.startswith("/")
    return load_config({**claimed["config"], "output": folder.uri, "work": folder.path(work) if inside else work})
