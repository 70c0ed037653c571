"""Real signals to real runs."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.control.stopping import Interrupted, Stop
from pairsift.pipeline.report.log import last_log
from pairsift.stages.storage import Folder

COMMAND = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run"]
STOPPED = 4  # the exit code


@pytest.fixture
def slow(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """A config whose stage takes its time: 400 rows in units of 4."""

    def write(**parameters: Any) -> Path:
        source = captions([f"caption {i}" for i in range(400)], unit_rows=4)
        config = {"input": source, "output": str(tmp_path / "out"), "stages": [{"use": "pairsift_toys.slow", **parameters}]}
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        return file

    return write


def layers(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "out" / "work" / "layers").glob("pairsift_toys.slow-*/*/*.parquet"))


def start(config: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*COMMAND, str(config), *flags], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "in vain"
        time.sleep(0.05)


def finishes(tmp_path: Path, config: Path) -> None:
    """The same command goes on from there, and does nothing twice."""
    times = {file: file.stat().st_mtime_ns for file in layers(tmp_path)}
    done = subprocess.run(
        [*COMMAND, str(config), "--runner", "local", "--set", "stages.0.seconds=0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in times} == times
    fates = pq.read_table(tmp_path / "out" / "fates.parquet")
    assert fates["status"].to_pylist() == ["success"] * 400


@pytest.mark.parametrize(("runner", "name"), [("local", "SIGINT"), ("ray", "SIGTERM")])
def test_a_signal_ends_a_run_in_good_order(tmp_path: Path, slow: Callable[..., Path], runner: str, name: str) -> None:
    config = slow(seconds=1.0)
    process = start(config, "--runner", runner)
    wait_for(process, lambda: len(layers(tmp_path)) > 2)
    began = time.monotonic()
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=30)
    assert process.returncode == STOPPED, said
    assert time.monotonic() - began < 10
    assert said.strip().splitlines()[-1].startswith("pairsift: stopped: ")
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    assert 2 < len(layers(tmp_path)) < 100
    assert list((tmp_path / "out" / "work").glob("attempts/*/*")) == []  # to be stopped is no death
    assert last_log(Folder(str(tmp_path / "out")))[-1]["event"] == "stopped"
    finishes(tmp_path, config)


def test_units_in_flight_are_abandoned_where_they_take_too_long(tmp_path: Path, slow: Callable[..., Path]) -> None:
    config = slow(seconds=60, blocking=True)
    process = start(config, "--runner", "local")
    wait_for(process, lambda: list((tmp_path / "out" / "work").glob("attempts/*/*")))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == STOPPED, said
    assert time.monotonic() - began < 10
    assert "the same command goes on from here" in said
    finishes(tmp_path, config)


def test_the_second_signal_ends_it_at_once(tmp_path: Path, slow: Callable[..., Path]) -> None:
    process = start(slow(seconds=60), "--runner", "local")
    wait_for(process, lambda: list((tmp_path / "out" / "work").glob("attempts/*/*")))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert time.monotonic() - began < 2


def test_max_time_stops_cleanly(tmp_path: Path, slow: Callable[..., Path]) -> None:
    config = slow(seconds=1.0)
    process = start(config, "--runner", "local", "--max-time", "1s")
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED, said
    assert "--max-time" in said
    assert len(layers(tmp_path)) < 100
    finishes(tmp_path, config)


@pytest.mark.parametrize("time", ["soon", "-5s", "infm", "nan"])
def test_a_wrong_max_time_is_told(slow: Callable[..., Path], time: str) -> None:
    done = subprocess.run([*COMMAND, str(slow()), f"--max-time={time}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "write it as 90s, 30m, 12h or 2d" in " ".join(done.stderr.replace("│", "").split())


def test_a_stop_is_asked_for_once() -> None:
    stop, called = Stop(), []
    with stop.calling(lambda: called.append(1)):
        stop.check()
        stop.ask("first")
        stop.ask("second")
    assert called == [1]
    with pytest.raises(Interrupted, match="first"):
        stop.check()
    assert not stop.grace_is_over


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_done_is_not_killed_while_python_ends(number: signal.Signals) -> None:
    """By then Python has taken its own handlers away."""
    script = f"""
import os
from pairsift.pipeline.control.stopping import SignalStop

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {number.value})

late = Late()
stop = SignalStop({STOPPED})
stop.listen()
stop.over()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_signal_while_ray_ends_is_heard() -> None:
    """Ray's C++ part takes the handler of SIGTERM away then, for a second."""
    script = f"""
import os, signal, threading, time
from pairsift.pipeline.control.stopping import SignalStop
from pairsift.pipeline.runners.ray import open_runner

stop = SignalStop({STOPPED})
stop.listen()
with open_runner():
    stop.listen()
    threading.Thread(target=lambda: (time.sleep(0.5), os.kill(os.getpid(), signal.SIGTERM))).start()
while not stop.asked:
    time.sleep(0.01)
print(stop.reason)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr
