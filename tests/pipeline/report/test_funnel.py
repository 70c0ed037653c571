"""The funnel's numbers add up, or it is an error; and what it shows of them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from pairsift.pipeline.cli import show
from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut.cut import FATES
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.report.funnel import Funnel, FunnelCounter, Loss
from pairsift.pipeline.report.survey import survey
from pairsift.pipeline.run import Options, run


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=100, force_terminal=False)


@pytest.fixture
def plan(captions: Callable[..., dict[str, Any]], tmp_path: Path) -> Plan:
    stages = [{"use": "filter.where", "keep": "true"}, {"use": "pairsift_toys.later"}, {"use": "dedup.exact", "by": ["url"]}]
    return make_plan(load_config({"input": captions(["a"]), "output": str(tmp_path / "out"), "stages": stages}))


def fates(*rows: tuple[int | None, str, str | None, str | None]) -> tuple[pa.RecordBatch, pa.Array]:
    """(stop, status, code, shard) of each row."""
    empty = dict.fromkeys(FATES.names)
    dicts = [
        {**empty, "ordinal": i, "key": f"{i:09d}", "uid": "u", "status": status, "code": code, "shard": shard}
        for i, (_, status, code, shard) in enumerate(rows)
    ]
    return pa.RecordBatch.from_pylist(dicts, schema=FATES), pa.array([stop for stop, *_ in rows], pa.int32())


def test_every_row_is_counted_where_it_was_lost(plan: Plan) -> None:
    first = fates(
        (None, "success", None, "00000"),
        (-1, "failed_to_read", "unreadable_row", None),
        (0, "rejected", None, None),
        (1, "failed_to_resize", "encode_error", None),
    )
    second = fates(
        (1, "failed_to_compute", "process_died", None), (2, "duplicate", None, None), (None, "success", None, "00001")
    )
    counter = FunnelCounter(plan)
    assert [len(batch) for batch in counter.count([first, second])] == [4, 3]
    funnel = counter.funnel(7)
    assert (funnel.rows, funnel.kept, funnel.shards) == (7, 2, 2)
    assert [(loss.step, loss.rows, loss.rule) for loss in funnel.losses] == [
        ("read", 1, False),
        ("true", 1, True),
        ("pairsift_toys.later", 2, False),
        ("duplicate url", 1, True),
    ]
    assert funnel.losses[2].reasons == Counter({"encode_error": 1, "process_died": 1})
    statuses = {status: rows for status, rows in funnel.statuses().items() if rows}
    expected = ["success", "success", "failed_to_read", "rejected", "failed_to_resize", "failed_to_compute", "duplicate"]
    assert statuses == Counter(expected)


def test_a_reader_that_read_everything_is_not_named(plan: Plan) -> None:
    counter = FunnelCounter(plan)
    list(counter.count([fates((None, "success", None, None))]))
    funnel = counter.funnel(1)
    assert funnel.losses[0].step == "true"
    assert funnel.shards == 0


@pytest.mark.parametrize("rows", [0, 2])
def test_a_row_too_many_or_too_few_is_an_error(plan: Plan, rows: int) -> None:
    counter = FunnelCounter(plan)
    list(counter.count([fates((None, "success", None, "00000"))]))
    with pytest.raises(ArithmeticError, match="lost count"):
        counter.funnel(rows)


def test_the_table_shows_each_step_and_the_sum(console: Console) -> None:
    reasons = Counter({"http_404": 900, "timeout": 100})
    losses = [Loss("[red]rule[/red] x < 3", True, 1500), Loss("download", False, 1000, reasons), Loss("nothing", True)]
    show.funnel(console, Funnel(5000, losses, 2500, 3))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[1:] == [
        "rows in 5,000 " + "█" * 16,
        "[red]rule[/red] x < 3 1,500 3,500 " + "█" * 11,
        "download 1,000 2,500 " + "█" * 8 + " http_404 900, timeout 100",
        "nothing - 2,500 " + "█" * 8,
        "kept 2,500 " + "█" * 8 + " in 3 shards",
        "5,000 rows in = 2,500 kept + 2,500 lost",
    ]


def test_no_rows_are_no_error(console: Console) -> None:
    show.funnel(console, Funnel(0, [Loss("download", False)], 0, 0))
    assert "0 rows in = 0 kept + 0 lost" in console.export_text()


def test_surveys_and_places(console: Console, captions: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    stages = [{"use": "filter.where", "keep": "length(caption) > 0", "name": "[b]"}, {"use": "pairsift_toys.later"}]
    config = load_config({"input": captions(["a", "b"]), "output": str(tmp_path / "[out]"), "stages": stages})
    show.survey(console, survey(config))
    before = console.export_text()
    assert "0 rows taken in" in before
    assert "to take in: 1 files" in before
    assert "[b]" in before
    outcome = run(config, Options(runner="local"))
    show.where(console, outcome)
    assert f"every row's fate: {tmp_path}/[out]/fates.parquet" in console.export_text().replace("\n", "")
    show.survey(console, survey(config))
    after = console.export_text()
    assert "nothing waits to be computed" in after
    assert "last run: 2 rows, 2 kept" in after
