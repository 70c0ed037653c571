"""What the engine asks of a stage's answers, and how it cuts, scatters and completes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.plan import Step, make_plan
from pairsift.pipeline.workers import chain
from pairsift.pipeline.workers.answers import ContractError, checked
from pairsift.pipeline.workers.chain import _cut
from pairsift.pipeline.workers.span import bundles

BATCH = pa.table({"ordinal": [4, 5], "caption": ["a", None]})


@pytest.fixture
def steps(captions: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., tuple[Step, ...]]:
    source = captions(["a"])

    def plan(*stages: dict[str, Any]) -> tuple[Step, ...]:
        return make_plan(load_config({"input": source, "output": str(tmp_path / "out"), "stages": list(stages)})).steps

    return plan


def broken(how: str) -> dict[str, Any]:
    return {"use": "pairsift_toys.broken", "how": how}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("short", "returned 1 rows for 2"),
        ("long", "returned 4 rows for 2"),
        ("type", "letters is int64, but its writes"),
        ("missing", "did not return 'letters'"),
        ("extra", "returned 'caption', which its writes"),
        ("code", "failure 'no_such_code' is not one of"),
    ],
)
def test_an_answer_that_breaks_the_contract(steps: Callable[..., tuple[Step, ...]], how: str, says: str) -> None:
    (step,) = steps(broken(how))
    with step.stage.open() as transform, pytest.raises(ContractError, match=f"pairsift_toys.broken.*{says}"):
        checked(step, BATCH, transform(BATCH))


@pytest.mark.parametrize("answer", [None, {"letters": [1, 2]}, BATCH.to_batches()[0]])
def test_an_answer_that_is_no_table(steps: Callable[..., tuple[Step, ...]], answer: Any) -> None:
    (step,) = steps(broken("not"))
    with pytest.raises(ContractError, match=r"pairsift_toys.broken returned \w+, not a pyarrow.Table"):
        checked(step, BATCH, answer)


def test_an_answer_gets_its_prefix_and_its_failures(steps: Callable[..., tuple[Step, ...]]) -> None:
    (step,) = steps(broken("not") | {"as": "x"})
    with step.stage.open() as transform:
        found = checked(step, BATCH, transform(BATCH))
    assert found.to_pydict() == {"x_letters": [1, 0], "failure": [None, None], "failure_detail": [None, None]}
    assert [str(kind) for kind in found.schema.types] == ["int32", "string", "string"]


@pytest.mark.parametrize("how", ["raise", "open"])
def test_an_exception_in_a_stage_is_not_swallowed(
    captions: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    with pytest.raises(ZeroDivisionError):
        curate(captions(["a", "b"] * 20), broken(how))
    attempts = [path for path in (tmp_path / "out" / "work" / "attempts").rglob("*") if path.is_file()]
    assert attempts == [], "an exception is no death of the process"
    assert not (tmp_path / "out" / "fates.parquet").exists()


def test_a_broken_contract_ends_the_run(captions: Callable[..., dict[str, Any]], curate: Callable[..., Any]) -> None:
    with pytest.raises(ContractError, match=r"pairsift_toys\.broken"):
        curate(captions(["a", "b"]), broken("type"))


def test_cut_bounds_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "BATCH_BYTES", 100)
    rows = np.array([0, 2, 3, 5, 6, 7])
    assert parts(_cut(rows, None, 4)) == [[0, 2, 3, 5], [6, 7]]
    lengths = np.array([60, 999, 40, 1, 999, 500, 99, 2])
    assert parts(_cut(rows, lengths, 10)) == [[0, 2], [3], [5], [6], [7]]
    assert parts(_cut(rows, np.zeros(8, int), 5)) == [[0, 2, 3, 5, 6], [7]]
    assert parts(_cut(rows[:0], None, 4)) == []


def parts(found: Any) -> list[list[int]]:
    return [part.tolist() for part in found]


def test_sub_batches_are_cut_the_same_way_fresh_and_resumed(
    tmp_path: Path,
    web: Any,
    listing: Callable[..., dict[str, Any]],
    curate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the bytes travel with the unit, or come back from the payload."""
    names = [
        "coffee.jpg",
        "missing.jpg",
        "moon.jpg",
        "rocket.jpg",
        "brick.jpg",
        "coins.jpg",
        "china.jpg",
        "grass.jpg",
        "text.jpg",
    ]
    source = listing([(web.url(name), name) for name in names], unit_rows=9)
    download = {"use": "download", "image_size": 64, "allow_private_addresses": True, "retries": 0}
    batches = {"use": "pairsift_toys.batches"}
    query = "SELECT batch_first, batch_bytes, image_length FROM ledger ORDER BY ordinal"
    rows = curate(source, download, batches).sql(query).fetchall()
    assert [first for first, _, _ in rows] == [0, None, 0, 0, 4, 4, 4, 7, 7], "three rows each, without the one that failed"
    for first in (0, 4, 7):
        together = [(size, length) for f, size, length in rows if f == first]
        assert {size for size, _ in together} == {sum(length for _, length in together)}
    asked = len(web.requests)
    monkeypatch.setattr(chain, "BATCH_BYTES", sum(rows[i][2] for i in (0, 2)))
    fresh = curate(source, download, batches, output="small").sql(query).fetchall()
    again = curate(source, download, {**batches, "as": "b"}).sql(query.replace("batch_", "b_batch_")).fetchall()
    assert len(web.requests) == asked + len(names)
    assert [first for first, _, _ in fresh][:4] == [0, None, 0, 3]
    assert again == fresh


def test_async_transforms_failures_and_dead_rows(captions: Callable[..., dict[str, Any]], curate: Callable[..., Any]) -> None:
    source = captions(["a", "fail", "drop", None, "b", "fail"], unit_rows=2)
    later = {"use": "pairsift_toys.later"}
    words = {"use": "pairsift_toys.broken"}
    results = curate(source, {"use": "filter.where", "keep": "caption IS DISTINCT FROM 'drop'"}, later, words)
    fates = results.fates()
    assert fates["status"].to_pylist() == ["success", "failed_to_resize", "rejected", "success", "success", "failed_to_resize"]
    ledger = results.ledger()
    assert ledger["loud"].to_pylist() == ["A", "FAIL", None, None, "B", "FAIL"], (
        "what a failed row brought is kept in its layer"
    )
    assert ledger["letters"].to_pylist() == [1, None, None, 0, 1, None], "dead rows travel on as tombstones"


def test_a_layer_is_completed_not_done_again(
    captions: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path
) -> None:
    source = captions([f"{'x' * i}" for i in range(12)], unit_rows=5)
    words = {"use": "pairsift_toys.words", "log": str(tmp_path / "log")}

    def keep(rule: str) -> Any:
        return curate(source, {"use": "filter.where", "keep": rule}, words)

    keep("length(caption) % 3 = 0")
    second = keep("length(caption) % 2 = 0")
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [0, 2, 3, 4, 6, 8, 9, 10]
    layer = second.plan.layers[1]
    ledger = Ledger(second.config.work)
    held = [ledger.read(layer, unit)["ordinal"].to_pylist() for unit in ledger.units(layer)]  # type: ignore[index]
    assert held == [[0, 2, 3, 4], [6, 8, 9], [10]]
    assert keep("length(caption) % 2 = 0").report["rows_computed"] == {"pairsift_toys.words": 0}


def test_a_damaged_input_layer_is_told(
    captions: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path
) -> None:
    source = captions(["a"] * 9, unit_rows=3)
    curate(source)
    next((tmp_path / "out" / "work" / "layers").rglob("000000001.parquet")).unlink()
    with pytest.raises(OSError, match="holds 6 of 9 rows of the input; `pairsift check`"):
        curate(source, {"use": "pairsift_toys.broken"})


def test_neighbours_with_equal_resources_are_bundled(steps: Callable[..., tuple[Step, ...]]) -> None:
    big = {"resources": {"cpus": 2}}
    rule = {"use": "filter.where", "keep": "true"}

    def stage(name: str, **more: Any) -> dict[str, Any]:
        return {"use": "pairsift_toys.broken", "as": name, **more}

    def grouped(*stages: dict[str, Any]) -> list[list[int]]:
        return [[step.index for step in group] for group in bundles(steps(*stages))]

    assert grouped() == []
    assert grouped(rule) == [[0]]
    assert grouped(stage("a"), stage("b"), rule) == [[0, 1, 2]]
    assert grouped(rule, stage("a", **big), rule, stage("b"), rule, stage("c")) == [[0, 1, 2], [3, 4, 5]]
    assert grouped(stage("a", **big), rule, stage("b", **big)) == [[0, 1, 2]]
    assert grouped(stage("a"), stage("b", **big), stage("c")) == [[0], [1], [2]]
