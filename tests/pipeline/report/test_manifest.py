"""Whose an output is, and what was done for it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.report.funnel import Funnel, Loss
from pairsift.pipeline.report.manifest import Tally, claim, dump, read_json, write_run
from pairsift.pipeline.report.survey import output_config
from pairsift.pipeline.workers.reports import StageReport, UnitReport
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder

WORDS = {"use": "pairsift_toys.words", "log": "/dev/null"}


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


@pytest.fixture
def planned(captions: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Plan]:
    source = captions(["a"])

    def plan(*stages: dict[str, Any], **rest: Any) -> Plan:
        config = {"input": source, "output": str(tmp_path / "out"), "stages": list(stages), **rest}
        return make_plan(load_config(config))

    return plan


def test_a_published_cut_is_changed_only_when_asked(planned: Callable[..., Plan], output: Folder) -> None:
    claim(output, planned(), None, replace=False)
    claim(output, planned(WORDS), None, replace=False)  # nothing is published yet
    output.write("run.json", b"{}")
    claim(output, planned(WORDS | {"log": "/elsewhere"}), None, replace=False)
    for plan, limit in ((planned(), None), (planned(WORDS, shards={"rows": 3}), None), (planned(WORDS), 5)):
        with pytest.raises(ConfigError, match="--replace"):
            claim(output, plan, limit, replace=False)
    claim(output, planned(), 5, replace=True)
    claim(output, planned(WORDS), None, replace=False)  # what a limit left was no publication


def test_another_input_is_refused_whatever_is_asked(planned: Callable[..., Plan], output: Folder, tmp_path: Path) -> None:
    claim(output, planned(), None, replace=False)
    other = planned(input={"use": "read.urls", "path": str(tmp_path / "rows.parquet"), "unit_rows": 9})
    for plan in (other, planned(work=str(tmp_path / "other work"))):
        with pytest.raises(ConfigError, match="another input"):
            claim(output, plan, None, replace=True)


def test_a_claim_holds_the_config(planned: Callable[..., Plan], output: Folder) -> None:
    plan = planned(WORDS | {"as": "x"}, {"use": "dedup.exact", "by": ["url"]}, shards={"rows": 7})
    claim(output, plan, None, replace=False)
    assert output_config(output.uri) == plan.config
    assert dump(load_config(dump(plan.config))) == dump(plan.config)


def test_damaged_files_are_told(output: Folder) -> None:
    assert read_json(output, "cut.json") is None
    output.write("cut.json", b'{"cut": ')
    with pytest.raises(OSError, match=r"cut\.json: damaged.*`pairsift check`"):
        read_json(output, "cut.json")
    output.write("cut.json", b"null")
    with pytest.raises(OSError, match=r"cut\.json: damaged"):
        read_json(output, "cut.json")


def report(unit: int, ended: float, computed: int = 10, failed: int = 2) -> UnitReport:
    return UnitReport(
        unit, 10, {"images": StageReport(computed, failed, seconds=0.5, bytes=100, ended=ended), "x": StageReport(3)}
    )


def test_the_rate_is_that_of_the_steady_download() -> None:
    """Without the first unit, whose images came while everything was starting."""
    tally = Tally()
    assert tally.images_per_second() is None
    tally.add(report(0, ended=100.0), {"images"})
    assert tally.images_per_second() is None
    tally.add(report(2, ended=104.0), {"images"})
    tally.add(report(1, ended=102.0, failed=0), {"images"})
    assert tally.images_per_second() == (10 + 8) / 4
    assert tally.stages["images"] == StageReport(30, 4, 1.5, 300, ended=104.0)
    assert tally.stages["x"].computed == 9


def test_units_that_end_at_one_moment_have_no_rate() -> None:
    tally = Tally()
    for unit in range(2):
        tally.add(report(unit, ended=5.0), {"images"})
    assert tally.images_per_second() is None


def test_run_json_adds_up(planned: Callable[..., Plan], output: Folder) -> None:
    plan = planned(WORDS, {"use": "filter.where", "keep": "true"}, {"use": "filter.where", "keep": "words > 1", "name": "true"})
    losses = [
        Loss("read", False, 2, Counter(unreadable_row=2)),
        Loss("pairsift_toys.words", False, 3, Counter(encode_error=1, unreadable_row=2)),
        Loss("true", True, 4, Counter(rejected=4)),
        Loss("true", True, 5, Counter(rejected=5)),
    ]
    said = write_run(output, plan, Funnel(20, losses, 6, 2), Tally(), shards_written=1, limit=None)
    assert said == json.loads(output.read("run.json"))
    assert said["failures"] == {"encode_error": 1, "unreadable_row": 4}
    assert said["rejected"] == {"true": 9}
    assert sum(said["counts"].values()) == said["rows"] == 20
    assert said["kept"] + sum(said["failures"].values()) + sum(said["rejected"].values()) == 20
    assert said["layers"]["pairsift_toys.words"] == plan.layers[1].name
    assert said["rows_computed"] == {"pairsift_toys.words": 0}
    assert {"python", "pairsift", "pyarrow", "duckdb"} <= set(said["versions"])
