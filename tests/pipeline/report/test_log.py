import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.control.lock import hold
from pairsift.pipeline.report.activity import activity
from pairsift.pipeline.report.log import Logged, RunLog, last_log
from pairsift.pipeline.report.progress import Silent
from pairsift.pipeline.run import Options, run
from pairsift.stages.storage import Folder


def config(tmp_path: Path, captions: Callable[..., dict[str, Any]], *stages: dict[str, Any]) -> Any:
    source = captions([f"caption {i}" for i in range(10)], unit_rows=4)
    return load_config({"input": source, "output": str(tmp_path / "out"), "stages": list(stages)})


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    [file] = (tmp_path / "out" / "log").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_writes_what_it_did(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> None:
    run(config(tmp_path, captions, {"use": "pairsift_toys.slow", "seconds": 0}), Options("local"))
    events = lines(tmp_path)
    assert [event["event"] for event in events] == ["start", "begin", "end", "begin", *["unit"] * 3, "end", "finished"]
    assert sorted(event["unit"] for event in events if event["event"] == "unit") == [0, 1, 2]
    [stage] = events[4]["stages"].values()
    assert stage["computed"] in (4, 2)
    assert events[2] | {"time": 0, "seconds": 0} == {
        "time": 0, "event": "end", "phase": "read", "done": 10, "of": "rows", "seconds": 0
    }  # fmt: skip
    assert activity(Folder(str(tmp_path / "out"))).state == "ended"


def test_failures_are_counted_by_code(tmp_path: Path, web: Any, listing: Callable[..., dict[str, Any]]) -> None:
    source = listing([(web.url(name), "caption") for name in ("coffee.jpg", "missing.jpg", "gone.jpg")])
    stages = [{"use": "download", "allow_private_addresses": True}]
    outcome = run(load_config({"input": source, "output": str(tmp_path / "out"), "stages": stages}), Options("local"))
    [unit] = [event for event in lines(tmp_path) if event["event"] == "unit"]
    [stage] = unit["stages"].values()
    assert (stage["computed"], stage["failed"], stage["failures"]) == (3, 2, {"http_404": 2})
    assert outcome.report["failed"] == {"download": 2}
    assert outcome.report["counted"] == {"download": {"bytes_received": len(web.files["coffee.jpg"])}}


def test_what_stopped_a_run_is_in_its_log(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))

    def break_down() -> None:
        with Logged(Silent(), RunLog(output, "a" * 32)) as logged:
            logged.begin("download", 100, "rows")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        break_down()
    assert last_log(output)[-1]["by"] == "RuntimeError: no more"
    found = activity(output)
    assert (found.state, found.reason, found.phase) == ("stopped", "RuntimeError: no more", "download")
    assert found.sentence().endswith("; see to that, then run the same command again to go on")
    found.reason = "Interrupted: SIGTERM"
    assert found.sentence().endswith("rows; run the same command again to go on")


def test_a_killed_run_is_told_from_a_live_one(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    assert activity(output).sentence() == "no run has begun here"
    with hold(output) as fence:
        log = RunLog(output, fence.token)
        logged = Logged(Silent(), log).__enter__()
        logged.begin("download", 100, "rows")
        log.write("progress", phase="download", done=40, total=100, of="rows", per_second=20.0)
        found = activity(output)
        assert (found.state, found.done, found.seconds_left) == ("running", 40, 3.0)
        assert "download: 40 of 100 rows, 20 rows/s, 3 s to go" in found.sentence()
        log.close()
    assert activity(output).state == "died"  # neither "stopped" nor "finished" stands in its log
    assert "the last run was killed" in activity(output).sentence()


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "20261122T101500Z-01234567.jsonl").write_text('{"time": "t", "event": "start"}\n{"time": "t", "ev')
    assert [event["event"] for event in last_log(Folder(str(tmp_path)))] == ["start"]
