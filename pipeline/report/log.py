"""The run log: what a run did, when and where, one JSON object a line. Nothing in it has to be reproducible.

    OUTPUT/log/20261122T101500Z-TOKEN.jsonl     start, phases, units, progress, stop or end

In an object store, which cannot append, a run's log is a series of such files.
"""

import json
import os
import platform
import socket
import time
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, BinaryIO

from pairsift.pipeline.report.progress import Silent
from pairsift.pipeline.workers.reports import UnitReport
from pairsift.stages.storage import Folder, telling_where

PROGRESS_SECONDS = 5.0  # between two lines that say how far a phase has come
_PART_SECONDS = 30.0  # of lines in one file, in an object store


class RunLog:
    """One run's log. Lines are there as soon as they are written, on a disk."""

    def __init__(self, output: Folder, token: str) -> None:
        self._folder = output
        self._name = f"log/{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{token[:8]}"
        self._file: BinaryIO | None = None
        self._lines: list[bytes] = []
        self._parts, self._written = 0, time.monotonic()
        if output.local:
            path = output.path(f"{self._name}.jsonl")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`

    def write(self, event: str, **facts: Any) -> None:
        """One line: the time, the event's name, and the facts, JSON-able."""
        line = json.dumps({"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event, **facts})
        if self._file:
            with telling_where(self._file.name):
                self._file.write(line.encode() + b"\n")
            return
        self._lines.append(line.encode())
        if time.monotonic() - self._written > _PART_SECONDS:
            self._flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
        else:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self._folder.write(f"{self._name}-{self._parts:05d}.jsonl", b"\n".join(self._lines) + b"\n")
            self._lines, self._parts, self._written = [], self._parts + 1, time.monotonic()


class Logged(Silent):
    """Progress that is shown by another and written to the log."""

    def __init__(self, shown: Silent, log: RunLog) -> None:
        self._shown, self._log = shown, log
        self._what, self._kind = "", ""
        self._total: int | None = None
        self._done, self._began, self._said = 0, 0.0, 0.0

    def __enter__(self) -> "Logged":
        self._log.write("start", host=socket.gethostname(), pid=os.getpid(), python=platform.python_version())
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shown.__exit__(kind, error, trace)
        try:
            if error is None:
                self._log.write("finished")
            else:
                self._log.write("stopped", by=f"{type(error).__name__}: {error}"[:1000])
            self._log.close()
        except OSError:  # the disk may be full, and `error` say so
            if error is None:
                raise

    def say(self, line: str) -> None:
        self._shown.say(line)
        self._log.write("said", line=line)

    def begin(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._kind, self._done = what, total, unit, 0
        self._began = self._said = time.monotonic()
        self._shown.begin(what, total, unit)
        self._log.write("begin", phase=what, total=total, of=unit)

    def advance(self, done: int, note: str = "") -> None:
        self._done += done
        self._shown.advance(done, note)
        self._progress()

    def unit(self, report: UnitReport) -> None:
        self._done += report.rows
        self._shown.unit(report)
        self._log.write("unit", **report.as_dict())
        self._progress()

    def end(self) -> None:
        self._shown.end()
        self._log.write("end", phase=self._what, done=self._done, of=self._kind, seconds=round(self._seconds(), 3))

    def _progress(self) -> None:
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._said = time.monotonic()
            rate = round(self._done / self._seconds(), 1)
            self._log.write("progress", phase=self._what, done=self._done, total=self._total, of=self._kind, per_second=rate)

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-3)


def last_log(output: Folder) -> list[dict[str, Any]]:
    """The newest run's log, oldest line first, its unit lines left out; empty where there is none."""
    names = output.names("log")
    if not names:
        return []
    run = names[-1].removesuffix(".jsonl")[: len("20261122T101500Z-01234567")]
    events = []
    for name in names:
        if name.startswith(run):
            for line in output.read(f"log/{name}").splitlines():
                if b'"event": "unit"' not in line[:80] and (event := _parsed(line)):
                    events.append(event)
    return events


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # cut short by a kill
        return None
    return event if isinstance(event, dict) else None
