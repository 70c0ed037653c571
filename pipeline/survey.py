"""What is there and what is left to do, found without doing any of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.cut import Cut
from pairsift.pipeline.intake import Intake
from pairsift.pipeline.ledger import Ledger
from pairsift.pipeline.manifest import read_json
from pairsift.pipeline.plan import Step, make_plan
from pairsift.stages.base import ConfigError, Filter, Source, Stage
from pairsift.stages.storage import Folder, is_remote


@dataclass
class StepSurvey:
    """One step. `done` and `waiting` count rows, for stages only; `waiting` is what is known to be left: rows that an
    earlier stage has yet to compute may add to it."""

    index: int
    kind: str
    label: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    layer: str | None = None
    done: int | None = None
    waiting: int | None = None


@dataclass
class Survey:
    """How far a config has come."""

    output: str
    work: str
    rows: int  # taken in so far
    generations: int
    units: int
    new_sources: list[Source] = field(default_factory=list)
    steps: list[StepSurvey] = field(default_factory=list)
    report: dict[str, Any] | None = None  # run.json

    @property
    def complete(self) -> bool:
        return not self.new_sources and all(not step.waiting for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("output", "work", "rows", "generations", "units", "complete")},
            "new_sources": [source.model_dump() for source in self.new_sources],
            "steps": [asdict(step) for step in self.steps],
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
        rows=sum(g.rows for g in generations),
        generations=len(generations),
        units=sum(g.units for g in generations),
        new_sources=intake.new_sources(),
        steps=[_step(step) for step in plan.steps],
        report=read_json(Folder(config.output), "run.json"),
    )
    with Cut(plan, ledger, generations, limit) as cut:
        waiting = {pending.step: pending.rows for pending in cut.play(len(plan.steps))}
        for step in plan.steps:
            if step.layer:
                found.steps[step.index].done = cut.rows_in(step.layer)
                found.steps[step.index].waiting = waiting.get(step.index, 0)
    return found


def _step(step: Step) -> StepSurvey:
    entry = step.entry
    kind = "stage" if isinstance(entry, Stage) else "filter" if isinstance(entry, Filter) else "selector"
    layer = step.layer.name if step.layer else None
    return StepSurvey(step.index, kind, step.label, tuple(entry.reads()), tuple(step.writes.names), layer)


def output_config(output: str) -> Config:
    """The config that an output folder was last run with. Raises ConfigError where there is none."""
    claimed = read_json(Folder(output), "cut.json")
    if claimed is None:
        raise ConfigError(f"{output}: not an output of pairsift (it has no cut.json); give an output folder or a config")
    folder = Folder(output)
    work = claimed["work"]
    inside = not is_remote(work) and not work.startswith("/")
    return load_config({**claimed["config"], "output": folder.uri, "work": folder.path(work) if inside else work})
