import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pairsift.pipeline.cut import verdicts
from pairsift.pipeline.cut.verdicts import ALIVE, UNREAD, Verdicts, stopped, waiting


@pytest.fixture(params=["memory", "files"])
def ten(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    if request.param == "files":
        monkeypatch.setattr(verdicts, "IN_MEMORY_ROWS", 9)
    return Verdicts(10, str(tmp_path / "spill"))


def test_what_is_set_is_told(ten: Verdicts) -> None:
    assert ten.alive(0, 10).all()
    assert ten.counts() == {ALIVE: 10}
    ten.set(np.array([1, 5]), stopped(0), pa.array([0.5, None]))
    ten.set(np.array([2, 9]), np.array([stopped(3), stopped(UNREAD)]), None, pa.array([0, None], pa.int64()))
    ten.set(np.array([8]), stopped(3), pa.array([float("nan")]), pa.array([7]))
    assert ten.stops(0, 10).to_pylist() == [None, 0, 3, None, None, 0, None, None, 3, -1]
    assert ten.stops(2, 3).to_pylist() == [3]
    assert ten.scores(0, 8).to_pylist() == [None, 0.5, *[None] * 6]
    assert np.isnan(ten.scores(8, 9)[0].as_py()), "a score that is no number is not the same as none"
    assert ten.keepers(0, 10).to_pylist() == [None, None, 0, None, None, None, None, None, 7, None]
    assert ten.at(0).tolist() == [1, 5]
    assert ten.at(3).tolist() == [2, 8]
    assert ten.alive(4, 7).tolist() == [True, False, True]


def test_rows_that_wait(ten: Verdicts) -> None:
    ten.set(np.array([0, 4, 7]), np.array([waiting(0), waiting(12), waiting(12)]))
    assert ten.pending() == {0: 1, 12: 2}
    assert np.concatenate(list(ten.pending_ordinals())).tolist() == [0, 4, 7]


def test_files_leave_nothing_behind_and_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "IN_MEMORY_ROWS", 9)
    found = Verdicts(1000, str(tmp_path / "spill"))
    found.set(np.arange(1000), stopped(1))
    assert os.listdir(tmp_path / "spill") == []
    with pytest.raises(OSError, match=r"No space left|File too large"):
        Verdicts(1 << 60, str(tmp_path / "spill"))


def test_where_no_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "IN_MEMORY_ROWS", 9)
    (tmp_path / "spill").write_text("in the way")
    found = Verdicts(1000, str(tmp_path / "spill"))
    found.set(np.arange(10), stopped(1))
    assert found.counts() == {0: 990, stopped(1): 10}


def test_no_rows() -> None:
    none = Verdicts(0, "/nowhere")
    assert (none.counts(), none.pending(), none.at(0).tolist(), none.stops(0, 0).to_pylist()) == ({}, {}, [], [])
