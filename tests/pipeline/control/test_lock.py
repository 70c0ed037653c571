"""Real locks, held by real processes."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.control.lock import Fence, FencedError, Inside, hold, holder
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder

HOLD = """
import sys, time
from pairsift.pipeline.control.lock import hold
from pairsift.stages.storage import Folder
with hold(Folder(sys.argv[1])) as fence:
    print(fence.token, flush=True)
    time.sleep(60)
"""
WORK = """
import sys, time
from pairsift.pipeline.control.lock import Fence
from pairsift.stages.storage import Folder
with Fence(Folder(sys.argv[1]), sys.argv[2]).inside():
    print("inside", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start(code: str, *arguments: object) -> tuple["subprocess.Popen[str]", str]:
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process, _ = start(HOLD, tmp_path)
    try:
        with pytest.raises(ConfigError) as refused, hold(Folder(str(tmp_path))):
            pass
        assert f"in use by process {process.pid} on {socket.gethostname()} since 20" in str(refused.value)
        assert "\n" not in str(refused.value)
        found = holder(Folder(str(tmp_path)))
        assert found is not None
        assert found["pid"] == process.pid
    finally:
        end(process)
    assert holder(Folder(str(tmp_path))) is None


def test_a_dead_holders_lock_is_taken_over_at_once(tmp_path: Path) -> None:
    process, token = start(HOLD, tmp_path)
    end(process)
    began = time.monotonic()
    with hold(Folder(str(tmp_path))) as fence:
        assert fence.token != token
    assert time.monotonic() - began < 2


def test_workers_of_a_killed_run_are_waited_for(tmp_path: Path) -> None:
    driver, token = start(HOLD, tmp_path)
    worker, said = start(WORK, tmp_path, token, 1.5)
    assert said == "inside"
    end(driver)
    told: list[str] = []
    with hold(Folder(str(tmp_path)), told.append) as fence:
        assert worker.wait(timeout=5) == 0  # it is gone by the time that the folder is ours
        with pytest.raises(FencedError), Fence(Folder(str(tmp_path)), token).inside():
            pass  # nor can another one of that run begin
        with fence.inside():
            pass
    assert "waiting for the workers of a run that was killed" in told[0]
    worker.communicate()


def test_a_run_that_ended_well_leaves_nobody_to_wait_for(tmp_path: Path) -> None:
    with hold(Folder(str(tmp_path))) as fence:
        worker, _ = start(WORK, tmp_path, fence.token, 5)
    began = time.monotonic()
    with hold(Folder(str(tmp_path))):
        assert time.monotonic() - began < 1
    end(worker)


def test_what_is_not_inside_does_not_write(tmp_path: Path) -> None:
    with hold(Folder(str(tmp_path))) as fence:
        assert Inside(fence, str.upper)("a") == "A"
    with hold(Folder(str(tmp_path))), pytest.raises(FencedError, match="begun since"):
        Inside(fence, str.upper)("a")


def test_workers_learn_that_nothing_more_is_to_begin(tmp_path: Path) -> None:
    with hold(Folder(str(tmp_path))) as fence:
        assert not fence.asked_to_stop
        fence.ask_to_stop()
        assert Fence(Folder(str(tmp_path)), fence.token).asked_to_stop
    with hold(Folder(str(tmp_path))) as fence:
        assert not fence.asked_to_stop


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), hold(Folder(str(tmp_path))):
        pass


def _try(folder: str, results: "multiprocessing.Queue[Any]") -> None:
    try:
        with hold(Folder(folder)):
            time.sleep(2.5)
        results.put("held")
    except ConfigError as error:
        results.put(str(error))


def test_of_many_at_once_one_holds_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Any] = context.Queue()
    tries = [context.Process(target=_try, args=(str(tmp_path), results)) for _ in range(4)]
    for process in tries:
        process.start()
    said = [results.get(timeout=30) for _ in tries]
    for process in tries:
        process.join()
    # Two may hold it one after the other, if one started late.
    assert said.count("held") in (1, 2)
    assert all("in use" in text for text in said if text != "held")
