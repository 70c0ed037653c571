import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pairsift.stages.select.top_fraction import TopFraction


def kept(selector: TopFraction, **columns: Any) -> list[int]:
    """Ordinals that stay; the score of each row that goes is checked."""
    rows = {name: pa.array(values) for name, values in columns.items()}
    count = len(rows["score"])
    table = pa.table({"ordinal": pa.array(range(count)), "generation": pa.array([0] * count), **rows})
    with duckdb.connect() as con:
        con.register("given", table)
        con.execute("CREATE TABLE rows AS SELECT * FROM given")
        con.execute(selector.reduce())
        gone = {ordinal: (keeper, score) for ordinal, keeper, score in con.fetchall()}
    for ordinal, (keeper, score) in gone.items():
        value = table["score"][ordinal].as_py()
        assert keeper is None
        assert score == value or (math.isnan(score) and math.isnan(value))
    return [ordinal for ordinal in range(count) if ordinal not in gone]


def datacomp(scores: Any, fraction: float) -> list[int]:
    """What baselines/apply_filter.py keeps for --fraction."""
    threshold = -np.sort(-scores)[int(len(scores) * fraction)]
    return np.flatnonzero(scores >= threshold).tolist()


def top(fraction: float, **more: Any) -> TopFraction:
    return TopFraction(by="score", fraction=fraction, **more)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.7, 1 / 3, 0.999])
def test_it_keeps_what_datacomp_keeps(kind: type, fraction: float) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 10, 999, 1000):
        scores = (rng.normal(size=count) * 100).astype(kind)
        assert kept(top(fraction), score=scores) == datacomp(scores, fraction)
        few = rng.integers(0, 4, count).astype(kind)  # ties
        assert kept(top(fraction), score=few) == datacomp(few, fraction)


@pytest.mark.parametrize(
    "scores", [[1e308, -1e308, 0.5, 0.4], [1e30, 1e-30, 0, -1e-30], [math.inf, -math.inf, 1, 2], [5.0] * 4]
)
def test_scores_of_any_size(scores: list[float]) -> None:
    for fraction in (0.01, 0.25, 0.5, 0.75):
        assert kept(top(fraction), score=np.array(scores)) == datacomp(np.array(scores), fraction)
    assert kept(top(0.5), score=[math.inf, math.inf]) == [0, 1]


def test_without_a_score_a_row_goes_and_does_not_count() -> None:
    scores = [None, 1.0, math.nan, 2.0, None, 3.0, 4.0]
    assert kept(top(0.5), score=scores) == [3, 5, 6], "of four, those from index 2 up"
    assert kept(top(1), score=scores) == [1, 3, 5, 6]
    assert kept(top(0.5), score=pa.array([None, None], pa.float64())) == []
    assert kept(top(0.5), score=pa.array([], pa.float64())) == []


def test_the_smallest() -> None:
    assert kept(top(0.25, largest=False), score=[4, 1, math.nan, 3, 2]) == [1, 4]


def test_groups_have_thresholds_of_their_own() -> None:
    groups = {"language": ["en", "en", "de", None, "en", "de", None], "size": [1, 1, 1, 2, 1, 1, 2]}
    scores = [0.1, 0.2, 0.05, 0.7, 0.3, 0.01, 0.6]
    assert kept(top(0.01, per=["language", "size"]), score=scores, **groups) == [2, 3, 4]
    assert top(0.5, per=["language"]).key() == ('"language"',)
    assert top(0.5, per=["language", "score"]).reads() == ("score", "language")


def test_what_cannot_be() -> None:
    for fraction in (0, -0.1, 1.01):
        with pytest.raises(ValidationError):
            top(fraction)
    assert top(0.3).label() == "top 0.3 by score"
    assert top(0.3, largest=False, per=["language"]).label() == "lowest 0.3 by score, per language"
    assert top(0.3, name="best").label() == "best"


@pytest.mark.parametrize("frozen", [True, False])
def test_new_files_do_not_move_what_an_earlier_generation_published(
    tmp_path: Path, curate: Callable[..., Any], frozen: bool
) -> None:
    (tmp_path / "in").mkdir()

    def add(name: str, marks: list[float]) -> None:
        rows = {"url": [f"http://{name}/{i}" for i in range(len(marks))], "caption": ["x"] * len(marks), "mark": marks}
        pq.write_table(pa.table(rows), tmp_path / "in" / f"{name}.parquet")

    source = {"use": "read.urls", "path": str(tmp_path / "in"), "unit_rows": 3}
    rule = {"use": "select.top_fraction", "by": "mark", "fraction": 0.25, "frozen": frozen}
    add("a", [0.1, 0.4, 0.3, 0.2])
    first = curate(source, rule).fates()["status"].to_pylist()
    assert first == ["rejected", "success", "success", "rejected"]
    add("b", [0.9, 0.8, 0.7, 0.6])
    second = curate(source, rule).fates()
    both = second["status"].to_pylist()
    assert both[4:] == ["success", "success"] + (["rejected"] * 2 if frozen else ["success", "rejected"])
    assert both[:4] == (first if frozen else ["rejected"] * 4)
    gone = [score for score, status in zip(second["score"].to_pylist(), both, strict=True) if status == "rejected"]
    assert gone[:2] == ([0.1, 0.2] if frozen else [0.1, 0.4])
