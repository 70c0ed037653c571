"""A sub-batch in child processes: the rows that kill are found, the others keep their results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.config import build_entry
from pairsift.pipeline.ledger.layers import Layer
from pairsift.pipeline.plan import Step
from pairsift.pipeline.workers import poison
from pairsift.pipeline.workers.answers import checked
from pairsift.pipeline.workers.poison import ChildError, Isolation
from pairsift.stages.base import Stage


def step(use: str, **parameters: object) -> Step:
    stage = build_entry({"use": use, **parameters}, use, (Stage,))
    return Step(0, stage, Layer.of("toy", stage.writes()), stage.writes())


def batch(*captions: str | None) -> pa.Table:
    return pa.table({"ordinal": range(10, 10 + len(captions)), "caption": pa.array(captions, pa.string())})


def isolated(toy: Step, *batches: pa.Table) -> pa.Table:
    with Isolation(toy) as ask:
        return pa.concat_tables([ask(rows) for rows in batches])


def test_exactly_the_rows_that_kill_are_marked(capfd: pytest.CaptureFixture[str]) -> None:
    toy = step("pairsift_toys.bomb")
    rows = batch("one", "three", "eleven", "a bomb", "bombs", "x")
    found = checked(toy, rows, isolated(toy, rows)).to_pydict()
    assert found["letters"] == [3, 5, 6, None, None, 1]
    assert found["failure"] == [None, None, None, "process_died", "process_died", None]
    assert found["failure_detail"] == [None, None, None, "exited with 7", "exited with 7", None]
    assert capfd.readouterr() == ("", ""), "nothing is said of what is taken care of"


def test_an_async_stage_whose_failures_differ_in_type() -> None:
    """In a half without failures, their column is of type null."""
    toy = step("pairsift_toys.later")
    rows = batch("a", None, "fail", "kill")
    found = checked(toy, rows, isolated(toy, rows)).to_pydict()
    assert found["loud"] == ["A", None, "FAIL", None]
    assert found["failure"] == [None, None, "encode_error", "process_died"]
    assert found["failure_detail"][3] == "killed by SIGKILL"


@pytest.mark.parametrize("use", ["pairsift_toys.later", "pairsift_toys.broken"])
def test_an_exception_in_the_child_is_a_fault_of_the_program(use: str) -> None:
    parameters = {"how": "raise"} if use.endswith("broken") else {}
    with pytest.raises(ChildError, match="ZeroDivisionError: a fault of the program"):
        isolated(step(use, **parameters), batch("raise"))


def test_a_stage_with_parameters_is_rebuilt_as_it_was(tmp_path: Path) -> None:
    toy = step("pairsift_toys.words", log=str(tmp_path / "log"), **{"as": "x"})
    found = isolated(toy, batch("two words", None))
    assert found["words"].to_pylist() == [2, None]
    assert (tmp_path / "log").read_text().split() == ["10", "11"]


def test_one_child_answers_for_all_of_a_unit() -> None:
    found = isolated(step("pairsift_toys.pid"), *(batch("one", "two") for _ in range(5)))
    [child] = found["pid"].unique().to_pylist()
    assert child != os.getpid()
    with pytest.raises(ProcessLookupError):  # it is gone
        os.kill(child, 0)


def test_where_every_row_kills_it_is_not_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a unit of thousands would be bisected for days."""
    monkeypatch.setattr(poison, "DEATHS_IN_A_ROW", 2)
    rows = batch(*["a bomb"] * 4)
    with pytest.raises(OSError, match=r"bomb: its process dies of whatever row it is given \(exited with 7\): more likely"):
        isolated(step("pairsift_toys.bomb"), rows)


def test_who_waits_for_an_answer_is_released() -> None:
    """A run that is stopped does not wait for a child."""
    toy = step("pairsift_toys.slow", seconds=60, blocking=True)
    with Isolation(toy) as ask, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, batch("one", "two"))
        time.sleep(1)
        ask.__exit__(None, None, None)
        with pytest.raises((ChildError, ValueError)):
            answer.result(timeout=10)


@pytest.fixture
def poisoned(tmp_path: Path, web: Any, listing: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Six units, a poison row in two of them, at the stage between a download and a count of words."""
    captions = [f"caption {i}" for i in range(24)]
    captions[6], captions[21] = "a segfault", "no memory"
    rows = [(web.url(f"coffee.jpg?{i}"), caption) for i, caption in enumerate(captions)]
    stages = [
        {"use": "download", "image_size": 64, "allow_private_addresses": True, "retries": 0},
        {"use": "pairsift_toys.bomb"},
        {"use": "pairsift_toys.words", "log": str(tmp_path / "words")},
    ]
    return {"input": listing(rows), "output": str(tmp_path / "out"), "stages": stages}


def assert_only_those_died(output: Path) -> None:
    fates = pq.read_table(output / "fates.parquet").to_pylist()
    died = {6: "killed by SIGSEGV", 21: "killed by SIGKILL"}
    assert {fate["ordinal"]: fate["error_message"] for fate in fates if fate["status"] != "success"} == died
    assert {fates[row]["code"] for row in died} == {"process_died"}
    assert len(fates) == 24
    letters = pq.read_table(output / "shards" / "00000.parquet")["letters"].to_pylist()
    assert letters == [len(f"caption {i}") for i in range(24) if i not in died]


def deaths(output: Path, unit: int) -> int:
    """Of attempts at the poisonous stage, as the last run's log tells."""
    log = max(output.glob("log/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    [stages] = [event["stages"] for event in events if event["event"] == "unit" and event["unit"] == unit]
    return next(int(stage["deaths"]) for name, stage in stages.items() if name.startswith("pairsift_toys.bomb-"))


def test_rows_that_kill_are_isolated_on_ray(tmp_path: Path, poisoned: dict[str, Any], web: Any) -> None:
    done = start(tmp_path, poisoned, "--runner", "ray", "--json")
    assert json.loads(done.stdout)["counts"]["failed_to_compute"] == 2  # and nothing else: Ray tells of dead workers there
    assert_only_those_died(tmp_path / "out")
    assert len(web.requests) == 24  # what was downloaded is kept
    assert deaths(tmp_path / "out", 1) >= 2
    assert deaths(tmp_path / "out", 5) >= 2


def start(tmp_path: Path, config: dict[str, Any], *flags: str) -> "subprocess.CompletedProcess[str]":
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(file), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rows_that_kill_are_isolated_in_one_process(tmp_path: Path, poisoned: dict[str, Any], web: Any) -> None:
    """It dies with each, so it is started again; never more than twice for each row."""
    codes: list[int] = []
    while not codes or codes[-1]:
        assert len(codes) < 5, codes
        codes.append(start(tmp_path, poisoned, "--runner", "local").returncode)
    assert set(codes[:-1]) <= {-signal.SIGSEGV, -signal.SIGKILL}
    assert_only_those_died(tmp_path / "out")
    assert len(web.requests) == 24
    assert max(deaths(tmp_path / "out", 1), deaths(tmp_path / "out", 5)) >= 2
