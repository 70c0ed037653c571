"""How the driver reads from Ray Data, and leaves it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.control.stopping import Interrupted, Stop
from pairsift.pipeline.runners.services import Services
from pairsift.pipeline.runners.waiting import interruptible


class Rows:
    """What Ray Data gives, and whether it was ended by who reads it. It tells its own ends from another thread's."""

    def __init__(self, *refused: str, seconds: float = 0.0) -> None:
        self._refused, self._seconds = refused, seconds
        self.given = 0
        self.ended = threading.Event()
        self.ended_by: threading.Thread | None = None

    def __iter__(self) -> Generator[dict[str, Any]]:
        try:
            for refused in self._refused:
                if self.ended.wait(self._seconds):
                    break
                self.given += 1
                yield {"refused": refused}
        finally:
            time.sleep(0.3)  # Ray Data tells Ray how much was read
            self.ended_by = threading.current_thread()


def nothing() -> None:
    """How rows end that cannot be ended."""


def test_all_rows_come() -> None:
    rows = Rows("", "stopped", "")
    assert [row["refused"] for row in interruptible(iter(rows), nothing, Stop(), Services())] == ["", "stopped", ""]
    assert rows.ended_by is not None


def test_nothing_is_read_behind_an_error() -> None:
    rows = Rows("", "system: the disk is full", "", "")
    reader = interruptible(iter(rows), nothing, Stop(), Services())
    assert [next(reader)["refused"], next(reader)["refused"]] == ["", "system: the disk is full"]
    reader.close()
    assert rows.given == 2
    assert rows.ended_by is not None  # before who has read it goes on, and shuts Ray down
    assert rows.ended_by.name == "ray-data"


def test_who_leaves_early_waits_for_the_end() -> None:
    rows = Rows(*[""] * 1000, seconds=0.01)
    reader = interruptible(iter(rows), nothing, Stop(), Services())
    next(reader)
    reader.close()
    assert rows.given < 1000
    assert rows.ended_by is not None


def test_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not come are abandoned with a stop."""
    monkeypatch.setattr("pairsift.pipeline.control.stopping.GRACE_SECONDS", 0.1)
    stop = Stop()
    stop.ask("enough")
    began = time.monotonic()
    with pytest.raises(Interrupted, match="enough"):
        list(interruptible(iter(Rows("", seconds=8)), nothing, stop, Services()))
    assert time.monotonic() - began < 5


def test_rows_that_do_not_come_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ray Data has left Ray before who has read from it shuts Ray down."""
    monkeypatch.setattr("pairsift.pipeline.control.stopping.GRACE_SECONDS", 0.1)
    stop = Stop()
    stop.ask("enough")
    rows = Rows("", seconds=60)
    with pytest.raises(Interrupted, match="enough"):
        list(interruptible(iter(rows), rows.ended.set, stop, Services()))
    assert rows.ended_by is not None


def test_the_death_of_the_raylet_is_told(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> None:
    """Ray would end the process without a word."""
    stage = {"use": "pairsift_toys.slow", "seconds": 0.5}
    source = captions([f"caption {i}" for i in range(400)])
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"input": source, "output": str(tmp_path / "out"), "stages": [stage]}))
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/work/layers/pairsift_toys.slow-*/*/*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    [pid] = children(process.pid, "raylet")
    os.kill(pid, signal.SIGKILL)
    said, told = process.communicate(timeout=40)
    assert process.returncode == 1
    assert told.splitlines()[-1].startswith(f"pairsift: Ray's raylet (process {pid}) has died")
    assert said == ""


def children(parent: int, program: str) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [pid for task in tasks for pid in task.read_text().split()]
    return [int(pid) for pid in pids if f"/{program}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
