"""Filters and selectors over the ledger: who goes where, why, and what still waits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut.cut import Cut, Pending
from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.ledger.intake import Intake
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.tar import TarWriter
from pairsift.pipeline.plan import make_plan
from pairsift.pipeline.report.survey import survey
from pairsift.stages import sql

Listing = Callable[..., dict[str, Any]]
Curate = Callable[..., Any]


def where(keep: str, name: str | None = None) -> dict[str, Any]:
    return {"use": "filter.where", "keep": keep, "name": name}


def dedup(*by: str) -> dict[str, Any]:
    return {"use": "dedup.exact", "by": list(by)}


LETTERS = {"use": "pairsift_toys.broken"}
LATER = {"use": "pairsift_toys.later"}


def column(results: Any, name: str) -> list[Any]:
    found: list[Any] = results.fates()[name].to_pylist()
    return found


def test_a_fate_says_who_and_why(captions: Listing, curate: Curate) -> None:
    source = captions(["aaa", "b", "fail", "aaaa", "aaa", None], unit_rows=2)
    results = curate(
        source, where("length(caption) >= 2", "long enough"), LATER, dedup("caption"), {"use": "pairsift_toys.shortest"}
    )
    fates = results.fates().to_pylist()
    assert results.fates().schema == FATES
    assert [tuple(fate[name] for name in ("status", "code", "rejected_by", "score", "duplicate_of")) for fate in fates] == [
        ("success", None, None, None, None),
        ("rejected", None, "long enough", 1, None),
        ("failed_to_resize", "encode_error", None, None, None),
        ("rejected", None, "pairsift_toys.shortest", 4, None),
        ("duplicate", None, "duplicate caption", None, "000000000"),
        ("rejected", None, "long enough", None, None),
    ]
    assert [fate["shard"] for fate in fates] == [None] * 6, "there are no images to pack"
    assert [fate["url"] for fate in fates][1] == "http://example.com/1.jpg"


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("CAST(caption AS INTEGER) > 3", ["5", "4000"]),
        ("caption::INT / (caption::INT - 4) BETWEEN 1 AND 9", ["5", "4000"]),
        ("length(caption) > 3 -- of letters", ["x\0\0y", "4000", "größer"]),
        ("caption IS NULL", [None]),
        ("caption <> 'x'", ["5", "", "x\0\0y", "4000", "99999999999", "größer"]),
        ("strlen(caption) = 8 OR length(caption) = 0", ["", "größer"]),
        ("true", ["5", "x", None, "", "x\0\0y", "4000", "99999999999", "größer"]),
        ("ordinal % 4 = 1 AND key > '000000001' AND uid IS NOT NULL", ["4000"]),
        ("error_free = caption", []),
    ],
)
def test_workers_and_the_cut_answer_alike(listing: Listing, curate: Curate, rule: str, kept: list[str | None]) -> None:
    """The worker decides whom a stage is run on; were the cut of another mind, rows would be pending for ever."""
    texts = ["5", "x", None, "", "x\0\0y", "4000", "99999999999", "größer"]
    source = listing([{"url": "u", "caption": text, "error_free": None} for text in texts], unit_rows=3)
    if rule == "length(caption) > 3 -- of letters":
        kept = [text for text in texts if text is not None and len(text) > 3]
    results = curate(source, where(rule), LETTERS)
    found = column(results, "status")
    assert [text for text, status in zip(texts, found, strict=True) if status == "success"] == kept
    assert set(found) <= {"success", "rejected"}
    ledger = results.ledger()
    assert ledger["letters"].is_valid().to_pylist() == [status == "success" for status in found]
    table = ledger.select(["ordinal", "key", "uid", "caption", "error_free"])
    assert sql.evaluate(rule, table.set_column(4, "error_free", pa.nulls(8, pa.string()))).to_pylist() == [
        s == "success" for s in found
    ]


def test_a_rule_whose_score_is_no_number(listing: Listing, curate: Curate) -> None:
    rows = [{"url": "u", "caption": text, "mark": i} for i, text in enumerate(["a", "b"])]
    source = listing(rows)
    assert column(curate(source, where("caption > 'a'")), "score") == [None, None]
    assert column(curate(source, where("mark >= 1")), "score") == [0, None], "a column of the engine's own name"
    assert column(curate(source, where("CAST(caption AS INTEGER) > 0 ")), "score") == [None, None]


def test_selectors_first_last_and_twice(listing: Listing, curate: Curate) -> None:
    rows = [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u3", "c"), ("u3", "c"), ("u4", None), ("u4", None)]
    results = curate(listing(rows, unit_rows=2), dedup("url", "caption"), dedup("url"), LETTERS, dedup("caption"))
    assert column(results, "duplicate_of") == [None, "000000000", "000000000", None, "000000003", None, "000000005"]
    by = ["duplicate url", "duplicate caption", None, "duplicate url, caption", None, "duplicate url"]
    assert column(results, "rejected_by") == [None, *by]
    assert results.report["rejected"] == {"duplicate url, caption": 1, "duplicate url": 2, "duplicate caption": 1}
    assert results.report["rows_computed"] == {"pairsift_toys.broken": 4}


def test_the_order_of_rules_decides_who_is_the_keeper(listing: Listing, curate: Curate) -> None:
    source = listing([("u", "short"), ("u", "a long caption")])
    rule = where("length(caption) > 6")
    assert column(curate(source, rule, dedup("url")), "status") == ["rejected", "success"]
    assert column(curate(source, dedup("url"), rule), "status") == ["rejected", "duplicate"]


def test_two_rules_of_one_name_are_counted_together(captions: Listing, curate: Curate) -> None:
    source = captions(["a", "bb", "ccc", "a"])
    results = curate(source, dedup("caption"), where("length(caption) < 3", "length"), LETTERS, where("letters > 1", "length"))
    assert results.report["rejected"] == {"duplicate caption": 1, "length": 2}
    assert sum(results.report["counts"].values()) == 4


def test_shards_are_numbered_over_generations(tmp_path: Path, curate: Curate) -> None:
    (tmp_path / "in").mkdir()

    def add(name: str, first: int, count: int) -> None:
        with open(tmp_path / "in" / f"{name}.tar", "wb") as file:
            tar = TarWriter(file)
            for i in range(first, first + count):
                tar.add(f"{i:04d}.jpg", b"an image")
                tar.add(f"{i:04d}.txt", b"drop" if i % 4 == 3 else b"keep")
            tar.close()

    source = {"use": "read.webdataset", "path": str(tmp_path / "in"), "unit_rows": 3}
    rule = where("caption = 'keep'")
    add("a", 0, 8)
    first = column(curate(source, rule, rows=4), "shard")
    assert first == ["00000", "00000", "00000", None, "00000", "00001", "00001", None]
    add("b", 8, 1)
    add("c", 9, 6)
    second = column(curate(source, rule, rows=4), "shard")
    assert second == [*first, "00002", "00002", "00002", None, "00002", "00003", "00003"]
    add("d", 15, 1)  # a generation that keeps nothing
    curate(source, rule, rows=4)
    add("e", 16, 1)
    third = curate(source, rule, rows=4)
    assert column(third, "shard") == [*second, None, "00004"]
    assert third.report["shards"] == 5


def test_a_limit_takes_the_first_rows(captions: Listing, curate: Curate) -> None:
    source = captions(["a", "b", "a", "c", "b"], unit_rows=2)
    results = curate(source, LETTERS, dedup("caption"), limit=3)
    assert column(results, "status") == ["success", "success", "duplicate"]
    assert (results.report["rows"], results.report["rows_computed"]) == (3, {"pairsift_toys.broken": 3})
    assert column(curate(source, LETTERS, dedup("caption"), limit=99), "status")[3:] == ["success", "duplicate"]


def test_what_is_pending_waits_at_its_step(captions: Listing, tmp_path: Path) -> None:
    """Nothing is played past a step that waits, and only the rows that are alive there wait."""
    source = captions(["a", "bb", "ccc", "a", "bb"], unit_rows=2)
    stages = [where("length(caption) > 1"), LETTERS, where("letters > 2"), LATER, dedup("caption")]
    config = load_config({"input": source, "output": str(tmp_path / "out"), "stages": stages})
    plan, ledger = make_plan(config), Ledger(config.work)
    generations = Intake(ledger, plan.intake, config.input).take_in()
    with Cut(plan, ledger, generations) as cut:
        assert cut.play(len(plan.steps)) == [Pending(1, 3)]
        assert cut.pending_units() == [0, 1, 2]
    commit(ledger, plan.steps[1].layer, 0, {1: 2})
    commit(ledger, plan.steps[1].layer, 1, {2: 3})
    with Cut(plan, ledger, generations) as cut:
        assert cut.play(len(plan.steps)) == [Pending(1, 1), Pending(3, 1)]
        assert cut.pending_units() == [1, 2]
        assert cut.play(1) == []
        assert cut.held(plan.steps[1].layer) == (2, 0, 0)
    with Cut(plan, ledger, generations, limit=2) as cut:
        assert cut.play(len(plan.steps)) == []
    found = survey(config)
    assert [step.waiting for step in found.steps] == [None, 1, None, 1, None]
    assert [step.done for step in found.steps] == [None, 2, None, 0, None]


def commit(ledger: Ledger, layer: Any, unit: int, letters: dict[int, int]) -> None:
    nulls = pa.nulls(len(letters), pa.string())
    columns = [pa.array(letters.keys(), pa.int64()), pa.array(letters.values(), pa.int32()), nulls, nulls]
    ledger.commit(layer, unit, pa.table(columns, schema=layer.schema))


def test_a_survey_before_the_first_run(captions: Listing, tmp_path: Path) -> None:
    config = load_config(
        {"input": captions(["a"]), "output": str(tmp_path / "out"), "stages": [dedup("url"), LETTERS, dedup("url")]}
    )
    found = survey(config)
    assert (found.rows, found.complete, len(found.new_sources)) == (0, False, 1)
    assert not (tmp_path / "out").exists()


def test_a_cut_that_is_interrupted(captions: Listing, tmp_path: Path) -> None:
    config = load_config({"input": captions(["a"]), "output": str(tmp_path / "out"), "stages": [dedup("url")]})
    plan, ledger = make_plan(config), Ledger(config.work)
    with Cut(plan, ledger, Intake(ledger, plan.intake, config.input).take_in()) as cut:
        cut.interrupt()
        with pytest.raises(duckdb.InterruptException):
            cut.play(1)
    assert not [name for name in ledger.work.names() if name.startswith("spill")]


def test_a_selector_with_little_memory_uses_the_disk(tmp_path: Path) -> None:
    rows = 300_000
    table = pa.table({"url": [f"http://host/{n % 290_000}/{'x' * 200}" for n in range(rows)]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "list.parquet")
    source = {"use": "read.urls", "path": str(tmp_path / "in"), "unit_rows": rows}
    config = load_config({"input": source, "output": str(tmp_path / "out"), "stages": [dedup("url")]})
    plan, ledger = make_plan(config), Ledger(config.work)
    generations = Intake(ledger, plan.intake, config.input).take_in()
    with Cut(plan, ledger, generations, memory=60 << 20) as cut:
        assert cut.play(1) == []
        assert cut.stops() == {None: 290_000, 0: 10_000}
