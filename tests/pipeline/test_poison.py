"""A sub-batch in child processes: the rows that kill are found, the others keep their results."""

from pathlib import Path

import pyarrow as pa
import pytest

from pairsift.pipeline.chain import checked
from pairsift.pipeline.config import build_entry
from pairsift.pipeline.ledger import Layer
from pairsift.pipeline.plan import Step
from pairsift.pipeline.poison import ChildError, isolate
from pairsift.stages.base import Stage


def step(use: str, **parameters: object) -> Step:
    stage = build_entry({"use": use, **parameters}, use, (Stage,))
    return Step(0, stage, Layer.of("toy", stage.writes()), stage.writes())


def batch(*captions: str | None) -> pa.Table:
    return pa.table({"ordinal": range(10, 10 + len(captions)), "caption": pa.array(captions, pa.string())})


def test_exactly_the_rows_that_kill_are_marked(capfd: pytest.CaptureFixture[str]) -> None:
    toy = step("pairsift_toys.bomb")
    rows = batch("one", "three", "eleven", "a bomb", "bombs", "x")
    found = checked(toy, rows, isolate(toy, rows)).to_pydict()
    assert found["letters"] == [3, 5, 6, None, None, 1]
    assert found["failure"] == [None, None, None, "process_died", "process_died", None]
    assert found["failure_detail"] == [None, None, None, "exited with 7", "exited with 7", None]
    assert capfd.readouterr() == ("", ""), "nothing is said of what is taken care of"


def test_an_async_stage_whose_failures_differ_in_type() -> None:
    """In a half without failures, their column is of type null."""
    toy = step("pairsift_toys.later")
    rows = batch("a", None, "fail", "kill")
    found = checked(toy, rows, isolate(toy, rows)).to_pydict()
    assert found["loud"] == ["A", None, "FAIL", None]
    assert found["failure"] == [None, None, "encode_error", "process_died"]
    assert found["failure_detail"][3] == "killed by SIGKILL"


@pytest.mark.parametrize("use", ["pairsift_toys.later", "pairsift_toys.broken"])
def test_an_exception_in_the_child_is_a_fault_of_the_program(use: str) -> None:
    parameters = {"how": "raise"} if use.endswith("broken") else {}
    with pytest.raises(ChildError, match="ZeroDivisionError: a fault of the program"):
        isolate(step(use, **parameters), batch("raise"))


def test_a_stage_with_parameters_is_rebuilt_as_it_was(tmp_path: Path) -> None:
    toy = step("pairsift_toys.words", log=str(tmp_path / "log"), **{"as": "x"})
    found = isolate(toy, batch("two words", None))
    assert found["words"].to_pylist() == [2, None]
    assert (tmp_path / "log").read_text().split() == ["10", "11"]
