"""The whole of a run on one page: plan, take in, compute segment by segment, cut, pack."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq

from pairsift.pipeline import pack
from pairsift.pipeline.chain import Span, mask_path
from pairsift.pipeline.config import Config
from pairsift.pipeline.cut import Cut
from pairsift.pipeline.funnel import Funnel, FunnelCounter
from pairsift.pipeline.intake import Generation, Intake, unit_rows
from pairsift.pipeline.ledger import Ledger
from pairsift.pipeline.manifest import Tally, claim, write_run
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.progress import Silent
from pairsift.pipeline.runners import Runner, check_runner, open_runner
from pairsift.stages.base import Selector
from pairsift.stages.storage import Folder

_FEW_SHARDS = 8  # that many are packed here sooner than other processes have started


@dataclass(frozen=True)
class Options:
    """How to run, as against what: none of it changes a byte of the output but `limit`."""

    runner: str = "ray"
    ray_address: str | None = None
    limit: int | None = None  # only the first so many input rows
    replace: bool = False  # rewrite published shards


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `report` is what run.json says."""

    plan: Plan
    funnel: Funnel
    report: dict[str, Any]


def run(config: Config, options: Options = Options(), progress: Silent | None = None) -> Outcome:
    """Do what is not done yet. Raises ConfigError before anything runs for whatever is wrong with the config."""
    return _Run(config, options, progress or Silent()).go()


class _Run:
    def __init__(self, config: Config, options: Options, progress: Silent) -> None:
        check_runner(options.runner)
        self._options, self._progress = options, progress
        self._tally = Tally()
        self._plan = make_plan(config)
        self._ledger, self._output = Ledger(config.work), Folder(config.output)
        self._stack = ExitStack()
        self._opened: Runner | None = None

    def go(self) -> Outcome:
        intake = Intake(self._ledger, self._plan.intake, self._plan.config.input)
        intake.new_sources()  # refuses another input's work folder before anything is written
        claim(self._output, self._plan, self._options.limit, self._options.replace)
        for step in self._plan.steps:
            if step.layer and (notice := step.stage.notice()):
                self._progress.say(notice)
        with self._stack, self._progress:
            generations = self._take_in(intake)
            for start, end in self._plan.segments():
                self._compute(start, end, generations)
            funnel, tasks = self._cut(generations)
            written = self._pack(tasks)
        report = write_run(self._output, self._plan, funnel, self._tally, written, self._options.limit)
        return Outcome(self._plan, funnel, report)

    def _take_in(self, intake: Intake) -> list[Generation]:
        self._progress.begin("read", None, "rows")
        seen = 0

        def count(rows: int) -> None:
            nonlocal seen
            self._progress.advance(rows - seen)
            seen = rows

        generations = intake.take_in(count)
        self._progress.end()
        return generations

    def _runner(self) -> Runner:
        """Started when there is work for it: a run that only cuts does not pay for Ray."""
        if self._opened is None:
            self._opened = self._stack.enter_context(open_runner(self._options.runner, self._options.ray_address))
        return self._opened

    def _compute(self, start: int, end: int, generations: list[Generation]) -> None:
        """Run the row-local steps [start, end) on every unit that lacks some of their rows."""
        steps = [step for step in self._plan.steps[start:end] if step.layer]
        if not steps:
            return
        with Cut(self._plan, self._ledger, generations, self._options.limit) as cut:
            if not cut.play(end):
                return
            units = cut.pending_units()
            self._write_masks(cut, start)
        span = Span(self._plan, start, end, horizon=end, limit=self._options.limit)
        images = {step.layer.name for step in steps if step.layer and step.makes_images}
        runner = self._runner()
        bounds = [unit_rows(generations, unit) for unit in units]
        self._progress.begin(" → ".join(step.label for step in steps), sum(last - first for first, last in bounds), "rows")
        for report in runner.process(span, units):
            self._tally.add(report, images)
            self._progress.unit(report)
        self._progress.end()

    def _write_masks(self, cut: Cut, before: int) -> None:
        """Tell the workers which rows earlier selectors took out."""
        for step in self._plan.steps[:before]:
            if isinstance(step.entry, Selector):
                sink = BytesIO()
                pq.write_table(cut.dead(step.index), sink, row_group_size=1 << 16)
                self._ledger.work.write(mask_path(step.index), sink.getvalue())

    def _cut(self, generations: list[Generation]) -> tuple[Funnel, list[pack.ShardTask]]:
        counter = FunnelCounter(self._plan)
        with Cut(self._plan, self._ledger, generations, self._options.limit) as cut:
            pending = cut.play(len(self._plan.steps))
            if pending:
                raise RuntimeError(f"rows are still pending after their segment ran: {pending}")
            fates = counter.count(cut.fates(self._plan.config.shards))
            tasks = pack.write_fates(self._output, fates, self._plan)
            return counter.funnel(cut.rows), tasks

    def _pack(self, tasks: list[pack.ShardTask]) -> int:
        if not self._plan.packs:
            return 0
        todo = pack.shards_to_write(self._output, tasks)
        expected = sum(task.rows for task in todo)
        self._progress.begin("pack", expected, "images")
        packed = 0
        for rows in self._packed(todo):
            self._progress.advance(rows)
            packed += rows
        self._progress.end()
        if packed != expected:
            raise ArithmeticError(f"{packed} of {expected} rows were packed: pairsift has lost count")
        pack.finish_shards(self._output, tasks)
        return len(todo)

    def _packed(self, todo: list[pack.ShardTask]) -> Iterator[int]:
        packer = pack.Packer(self._plan)
        if len(todo) < _FEW_SHARDS:
            return map(packer, todo)
        return self._runner().map(packer, todo)
