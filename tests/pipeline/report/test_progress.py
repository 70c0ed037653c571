"""What a run says while it works: to a log, to a terminal, and not at all."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.report import progress
from pairsift.pipeline.report.progress import OnTerminal, Silent
from pairsift.pipeline.run import Options, run
from pairsift.pipeline.workers.reports import StageReport, UnitReport

UNIT = UnitReport(0, 40, {"a": StageReport(computed=40, failed=2), "b": StageReport(computed=38, failed=1)})


def one_phase(shown: Silent) -> None:
    with shown:
        shown.begin("download", 100, "rows")
        shown.unit(UNIT)
        shown.unit(UNIT)
        shown.end()


def test_the_api_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    one_phase(Silent())
    Silent().say("a line")
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_at_the_end_of_a_phase(capfd: pytest.CaptureFixture[str]) -> None:
    one_phase(OnTerminal())
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("download: 80 rows in ")
    assert len(err.splitlines()) == 1


def test_a_log_gets_a_line_now_and_then(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    one_phase(OnTerminal())
    first, second, _ = capfd.readouterr().err.splitlines()
    assert first.startswith("download: 40 of 100 rows, ")
    assert " rows/s, 3 failed, " in first
    assert first.endswith(" s to go")
    assert "80 of 100 rows" in second
    assert "6 failed" in second


def test_a_phase_in_which_nothing_was_done_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    shown = OnTerminal()
    shown.begin("pack", 0, "images")
    shown.end()
    assert capfd.readouterr().err == ""


def test_what_is_said_is_said_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    line = "[bold]not markup[/bold] " + "long " * 60
    OnTerminal().say(line)
    assert capfd.readouterr().err == line + "\n"


def test_a_terminal_gets_a_bar_that_ends_with_the_run() -> None:
    """Also where the run ends in an exception: the cursor must come back."""
    code = (
        "from pairsift.pipeline.report.progress import OnTerminal\n"
        "with OnTerminal() as shown:\n"
        "    shown.begin('download', 100, 'rows'); shown.advance(80, '3 failed'); raise SystemExit(0)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, env=environment, timeout=60)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed, and all is read
            break
        if not part:
            break
        shown += part
    os.close(ours)
    text = shown.decode()
    assert "download" in text
    assert "80/100" in text
    assert "3 failed" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_a_run_tells_its_phases(
    captions: Callable[..., dict[str, Any]], tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {"input": captions(["a", "fail"]), "output": str(tmp_path / "out"), "stages": [{"use": "pairsift_toys.broken"}]}
    run(load_config(config), Options(runner="local"), OnTerminal())
    said = [line.partition(" in ")[0] for line in capfd.readouterr().err.splitlines()]
    assert said == ["read: 2 rows", "pairsift_toys.broken: 2 rows"]
