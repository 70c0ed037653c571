"""What a run shows while it works: rates and an ETA on a terminal, a line now and then in a log, nothing in the API."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pairsift.pipeline.workers.reports import UnitReport

LOG_EVERY = 15.0  # seconds between lines where there is no terminal


class Silent:
    """Shows nothing: what the Python API uses, and what the other inherits from."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def say(self, line: str) -> None:
        """One line for people."""

    def begin(self, what: str, total: int | None, unit: str) -> None:
        """A new phase begins: `total` things called `unit`, None where it is not known."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` more of the phase's things are done."""

    def end(self) -> None:
        """The phase is over."""

    def unit(self, report: UnitReport) -> None:
        """A unit is done: its rows, and what failed among those computed."""
        failed = sum(stage.failed for stage in report.stages.values())
        self.advance(report.rows, f"{failed} failed" if failed else "")


class OnTerminal(Silent):
    """Progress on stderr: a bar on a terminal, else a line every 15 s and one at the end of each phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._unit, self._total = "", "", 0
        self._done, self._failed, self._began, self._logged = 0, 0, 0.0, 0.0

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._unit, self._total, self._done, self._failed = what, unit, total or 0, 0, 0
        self._began = self._logged = time.monotonic()
        if self._live:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
            self._bar = Progress(*columns, TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task(what, total=total, rate="")
            self._bar.start()

    def unit(self, report: UnitReport) -> None:
        self._failed += sum(stage.failed for stage in report.stages.values())
        self.advance(report.rows, f"{self._failed:,} failed" if self._failed else "")

    def advance(self, done: int, note: str = "") -> None:
        self._done += done
        rate = ", ".join(filter(None, [f"{self._rate():,.3g} {self._unit}/s", note]))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=rate)
        elif time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            self.say(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {rate}{self._eta()}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        elif self._done:
            self.say(f"{self._what}: {self._done:,} {self._unit} in {time.monotonic() - self._began:.1f} s")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._began, 1e-3)

    def _eta(self) -> str:
        left = (self._total - self._done) / max(self._rate(), 1e-9)
        return f", {left:,.0f} s to go" if self._total > self._done else ""
