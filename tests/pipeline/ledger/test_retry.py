"""Rows that failed for a reason that may have passed, tried again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pairsift
from pairsift.pipeline.ledger.retry import Retries
from pairsift.pipeline.report.survey import output_config, survey
from pairsift.stages.base import ConfigError

CAPTIONS = ["one", "two", "three", "three", "gone", "five", "six", "seven"]


@pytest.fixture
def go(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Runs a list of captions while servers of some of them are down."""
    source = captions(list(CAPTIONS), unit_rows=3)
    down = tmp_path / "down.txt"

    def run(
        *unreachable: str, stages: list[dict[str, Any]] | None = None, outputs: dict[str, str] | None = None, **options: Any
    ) -> Any:
        down.write_text("\n".join(unreachable))
        flaky = {"use": "pairsift_toys.flaky", "down": str(down)}
        config = {
            "input": source,
            "output": str(tmp_path / "out"),
            "stages": [flaky if stage.get("use") == "flaky" else stage for stage in stages or [{"use": "flaky"}]],
            "shards": {"rows": 2},
            "outputs": outputs or {},
        }
        return pairsift.run(config, runner="local", **options)

    return run


def said(results: Any) -> list[tuple[str, str | None]]:
    return [(row["key"], row["code"] or row["status"]) for row in results.fates().to_pylist()]


def test_once_for_all_outputs(go: Callable[..., Any]) -> None:
    """Each of them would else ask the servers again for what the one before has just had no luck with."""
    outputs = {"few": "ordinal < 3", "many": "ordinal >= 3"}
    go("two", "six", outputs=outputs)
    results = go("two", "six", outputs=outputs, retry_failed=True)
    tried = [one.report["rows_computed"]["pairsift_toys.flaky"] for one in results.outputs.values()]
    assert tried == [2, 0]
    assert [one.report["rows"] for one in results.outputs.values()] == [len(CAPTIONS)] * 2


def test_only_what_may_have_passed_is_tried_again(go: Callable[..., Any]) -> None:
    first = go("two", "six")
    assert first.report["counts"]["failed_to_download"] == 3
    second = go("six", retry_failed=True)
    assert second.report["rows_computed"] == {"pairsift_toys.flaky": 2}
    # One input row, one fate; key and uid stay.
    assert sorted(said(second)) == [
        (f"{i:09d}", {4: "http_404", 6: "timeout"}.get(i, "success")) for i in range(len(CAPTIONS))
    ]  # fmt: skip
    assert second.report["rows"] == sum(second.report["counts"].values()) == len(CAPTIONS)
    uids = {row["key"]: row["uid"] for row in first.fates().to_pylist()}
    assert {row["key"]: row["uid"] for row in second.fates().to_pylist()} == uids
    third = go(retry_failed=True)
    assert third.report["rows_computed"] == {"pairsift_toys.flaky": 1}
    assert third.report["kept"] == 7
    planned = survey(output_config(third.config.output))
    assert (planned.rows, planned.tried_again) == (len(CAPTIONS), 3)
    fourth = go(retry_failed=True)
    assert fourth.report["rows_computed"] == {"pairsift_toys.flaky": 0}
    assert said(fourth) == said(third)


def test_they_come_after_all_that_was_there(go: Callable[..., Any]) -> None:
    go("two")
    ordinals = {row["key"]: row["ordinal"] for row in go(retry_failed=True).fates().to_pylist()}
    assert ordinals["000000001"] == len(CAPTIONS)
    assert "000000001" in [key for key, _ in said(go())][-1]


def test_a_row_is_not_its_own_duplicate(go: Callable[..., Any]) -> None:
    """Before the stage that failed, the repeated row shares the verdicts of its original: its twin stays a duplicate of it."""
    stages = [{"use": "dedup.exact", "by": ["caption"]}, {"use": "flaky"}]
    before = go("three", stages=stages)
    assert dict(said(before))["000000003"] == "duplicate"
    after = go(stages=stages, retry_failed=True)
    assert dict(said(after))["000000002"] == "success"
    [twin] = [row for row in after.fates().to_pylist() if row["key"] == "000000003"]
    assert (twin["status"], twin["duplicate_of"]) == ("duplicate", "000000002")


def test_a_published_keeper_never_loses(go: Callable[..., Any]) -> None:
    """After the stage, a repeated row comes last: of two that are equal, the one that was there is kept."""
    stages = [{"use": "flaky"}, {"use": "dedup.exact", "by": ["letters"]}]
    before = go("one", stages=stages)  # "two" and "six" have three letters, too
    assert dict(said(before))["000000001"] == "success"
    after = go(stages=stages, retry_failed=True)
    fates = {row["key"]: row for row in after.fates().to_pylist()}
    assert fates["000000001"]["status"] == "success"
    assert (fates["000000000"]["status"], fates["000000000"]["duplicate_of"]) == ("duplicate", "000000001")


def test_a_rule_that_comes_later_is_shared(go: Callable[..., Any]) -> None:
    go("two", "three")
    go(retry_failed=True)
    stages = [{"use": "dedup.exact", "by": ["caption"]}, {"use": "flaky"}]
    fates = dict(said(go(stages=stages, replace=True)))
    assert fates["000000002"] == "success"
    assert fates["000000003"] == "duplicate"


def test_where_the_stage_is_another_nobody_has_tried_again(go: Callable[..., Any]) -> None:
    go("two")
    go(retry_failed=True)
    other = go(stages=[{"use": "pairsift_toys.slow", "seconds": 0}], replace=True)
    assert said(other) == [(f"{i:09d}", "success") for i in range(len(CAPTIONS))]
    assert [row["ordinal"] for row in other.fates().to_pylist()] == list(range(len(CAPTIONS)))


def test_it_does_not_go_with_a_limit(go: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="--retry-failed goes neither with --limit"):
        go(retry_failed=True, limit=2)


def test_keys_are_those_of_the_first_try() -> None:
    import numpy as np

    retries = Retries(np.array([10, 11, 12]), np.array([3, 5, 10]), np.array([0, -1, 0]))
    assert retries.keys(pa.array([0, 3, 10, 11, 12, None])).to_pylist() == [0, 3, 3, 5, 3, None]
    assert np.flatnonzero(retries.left_out(13)).tolist() == [3, 10, 11]
