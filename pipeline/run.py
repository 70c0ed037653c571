"""The whole of a run on one page: plan, take in, compute segment by segment, cut, pack."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import Config
from pairsift.pipeline.control.guard import Watch
from pairsift.pipeline.control.lock import Inside, hold
from pairsift.pipeline.control.stopping import Interrupted, Stop
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.cut.dealt import Deal
from pairsift.pipeline.cut.verdicts import UNREAD
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.compactor import Compactor
from pairsift.pipeline.ledger.intake import Generation, Intake, unit_rows
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.retry import take_in_again
from pairsift.pipeline.ledger.tombstones import held_places
from pairsift.pipeline.pack import pack
from pairsift.pipeline.pack.release import columns_of, write_release
from pairsift.pipeline.pack.shards import ShardTask, finish_shards, write_fates
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.report.funnel import Funnel, FunnelCounter
from pairsift.pipeline.report.log import Logged, RunLog
from pairsift.pipeline.report.manifest import Tally, claim, write_run
from pairsift.pipeline.report.progress import Silent
from pairsift.pipeline.runners import Runner, check_runner, open_runner
from pairsift.pipeline.runners.local import LocalRunner
from pairsift.pipeline.workers.span import Span, mask_path
from pairsift.stages.base import ConfigError, Selector
from pairsift.stages.fates import TRANSIENT
from pairsift.stages.storage import Folder

T = TypeVar("T")
R = TypeVar("R")
_FEW_SHARDS = 8  # that many are packed here sooner than other processes have started


@dataclass(frozen=True)
class Options:
    """How to run, as against what: none of it changes a byte of the output but `limit`."""

    runner: str = "ray"
    ray_address: str | None = None
    limit: int | None = None  # only the first so many input rows
    replace: bool = False  # rewrite published shards
    retry_failed: bool = False  # take rows in again that failed for a reason that may have passed

    def of_the_next_output(self) -> "Options":
        """For another output of one work folder, whose rows have been tried again by then."""
        return replace(self, retry_failed=False)


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `report` is what run.json says."""

    plan: Plan
    funnel: Funnel
    report: dict[str, Any]


def run(config: Config, options: Options = Options(), progress: Silent | None = None, stop: Stop | None = None) -> Outcome:
    """Do what is not done yet.

    Raises:
        ConfigError: before anything runs, for whatever is wrong with the config; and where another run holds the folders.
        Interrupted: some seconds after `stop` was asked for.
        GuardError: nearly nothing comes through; see `guard` in the config.
    """
    return _Run(config, options, progress or Silent(), stop or Stop()).go()


class _Run:
    def __init__(self, config: Config, options: Options, progress: Silent, stop: Stop) -> None:
        check_runner(options.runner)
        assert not config.outputs, "see outputs.configs_of"
        self._options, self._shown, self._stop = options, progress, stop
        self._progress = progress
        self._tally = Tally()
        self._plan = make_plan(config)
        if config.release:
            columns_of(self._plan)  # which raises ConfigError
        labels = {step.layer.name: step.label for step in self._plan.steps if step.layer}
        self._watch = Watch(config.guard, labels)
        self._ledger, self._output = Ledger(config.work), Folder(config.output)
        self._stack = ExitStack()
        self._opened: Runner | None = None

    def go(self) -> Outcome:
        if self._options.retry_failed and (self._options.limit is not None or self._plan.config.shards.lists_all):
            raise ConfigError(
                "--retry-failed goes neither with --limit nor with `shards.layout: img2dataset`, which lists what failed"
            )
        intake = Intake(self._ledger, self._plan.intake, self._plan.config.input)
        intake.new_sources()  # refuses another input's work folder before anything is written
        with hold(self._output, self._shown.say) as mine, hold(self._ledger.work, self._shown.say) as self._fence:
            claim(self._output, self._plan, self._options.limit, self._options.replace)
            self._progress = Logged(self._shown, RunLog(self._output, mine.token))
            with self._progress:
                try:
                    return self._go(intake)
                except duckdb.InterruptException:
                    self._stop.check()  # raises what has interrupted it
                    raise
                except duckdb.IOException as error:
                    raise OSError(str(error)) from error

    def _go(self, intake: Intake) -> Outcome:
        for step in self._plan.steps:
            if step.layer and (notice := step.stage.notice()):
                self._progress.say(notice)
        try:
            with self._stack:
                generations = self._take_in(intake)
                if self._options.retry_failed:
                    generations = self._take_in_again(intake, generations)
                for start, end in self._plan.segments():
                    self._compute(start, end, generations)
                funnel, tasks = self._cut(generations)
                written = self._pack(tasks)
        except Interrupted:  # the workers are gone by now, and what they were at was no death
            for layer in self._plan.layers:
                self._ledger.forgive_attempts(layer)
            raise
        report = write_run(self._output, self._plan, funnel, self._tally, written, self._options.limit)
        return Outcome(self._plan, funnel, report)

    def _take_in(self, intake: Intake) -> list[Generation]:
        self._progress.begin("read", None, "rows")
        seen = 0

        def count(rows: int) -> None:
            nonlocal seen
            self._progress.advance(rows - seen)
            seen = rows
            self._stop.check()

        generations = intake.take_in(count)
        self._progress.end()
        return generations

    def _take_in_again(self, intake: Intake, generations: list[Generation]) -> list[Generation]:
        """Have rows tried again that failed, in what was done so far, for a reason that may have passed."""
        with self._open_cut(generations) as cut:
            cut.play(len(self._plan.steps))
            failed = cut.failed(TRANSIENT)
        self._progress.say(f"{len(failed):,} rows failed for a reason that may have passed, and are tried again")
        return take_in_again(intake, self._ledger, self._plan.intake, failed)

    def _runner(self) -> Runner:
        """Started when there is work for it: a run that only cuts does not pay for Ray."""
        if self._opened is None:
            try:
                self._opened = self._stack.enter_context(open_runner(self._options.runner, self._options.ray_address))
                self._stop.listen()  # Ray has taken the signals
            except SystemExit:  # which is Ray's answer to a SIGTERM that comes in between
                raise Interrupted("SIGTERM") from None
            self._stop.check()
        return self._opened

    def _compute(self, start: int, end: int, generations: list[Generation]) -> None:
        """Run the row-local steps [start, end) on every unit that lacks some of their rows."""
        steps = [step for step in self._plan.steps[start:end] if step.layer]
        if not steps:
            return
        with self._open_cut(generations) as cut:
            if not cut.play(end):
                return
            units = cut.pending_units()
            self._write_masks(cut, start)
        span = Span(self._plan, start, end, horizon=end, limit=self._options.limit, fence=self._fence)
        images = {step.layer.name for step in steps if step.layer and step.makes_images}
        runner = self._runner()
        bounds = [unit_rows(generations, unit) for unit in units]
        self._progress.begin(" → ".join(step.label for step in steps), sum(last - first for first, last in bounds), "rows")
        blocks = Blocks(self._ledger, generations, generations[-1].end_ordinal)
        with Compactor(blocks, [step.layer for step in steps if step.layer], units) as compactor:
            for report in runner.process(span, units, self._stop):
                self._tally.add(report, images)
                self._progress.unit(report)
                self._watch.add(report)
                compactor.done(report.unit)
        self._progress.end()

    @contextmanager
    def _open_cut(self, generations: list[Generation]) -> Iterator[Cut]:
        memory, deal = self._plan.config.cut_memory, Deal(self._map, self._options.runner)
        with (
            Cut(self._plan, self._ledger, generations, self._options.limit, memory, deal) as cut,
            self._stop.calling(cut.interrupt),
        ):
            yield cut
            self._stop.check()

    def _map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """A function that may write into the work folder, of each item, in any order."""
        return self._runner().map(Inside(self._fence, function), items, self._stop)

    def _write_masks(self, cut: Cut, before: int) -> None:
        """Tell the workers which rows earlier selectors took out, and which were dead before the first step."""
        selectors = [step.index for step in self._plan.steps[:before] if isinstance(step.entry, Selector)]
        for step in [UNREAD, *selectors]:
            sink = BytesIO()
            pq.write_table(cut.dead(step), sink, row_group_size=1 << 16)
            self._ledger.work.write(mask_path(step), sink.getvalue())

    def _cut(self, generations: list[Generation]) -> tuple[Funnel, list[ShardTask]]:
        counter = FunnelCounter(self._plan)
        with self._open_cut(generations) as cut:
            pending = cut.play(len(self._plan.steps))
            if pending:
                raise RuntimeError(f"rows are still pending after their segment ran: {pending}")
            cut.hold_places(held_places(self._output, self._plan.cut_fingerprint()))
            fates = self._judged(counter, cut)
            tasks = write_fates(self._output, fates, self._plan, replace=self._options.replace)
            write_release(self._output, self._plan, cut.kept)
            return counter.funnel(cut.input_rows), tasks

    def _judged(self, counter: FunnelCounter, cut: Cut) -> Iterator[pa.RecordBatch]:
        """The fates; raises GuardError after the last, before they are published."""
        yield from counter.count(cut.fates(self._plan.config.shards))
        self._watch.judge(counter.funnel(cut.input_rows))

    def _pack(self, tasks: list[ShardTask]) -> int:
        if not self._plan.packs:
            return 0
        with pack.prepared(self._plan, tasks, self._stop.check) as todo:
            expected = sum(task.rows for task in todo)
            self._progress.begin("pack", expected, "images")
            packed = 0
            for rows in self._packed(todo):
                self._progress.advance(rows)
                packed += rows
            self._progress.end()
        if packed != expected:
            raise ArithmeticError(f"{packed} of {expected} rows were packed: pairsift has lost count")
        finish_shards(self._plan, tasks)
        for folder in ("", "shards"):  # people look in there
            self._output.sweep(folder)
        return len(todo)

    def _packed(self, todo: list[ShardTask]) -> Iterator[int]:
        packer = Inside(self._fence, pack.Packer(self._plan))
        runner = self._runner() if len(todo) >= _FEW_SHARDS else LocalRunner()
        return runner.map(packer, todo, self._stop)
