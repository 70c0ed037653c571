"""Finders in a run: over generations, with the same fates each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pairsift.pipeline.cut.finding import found
from pairsift.stages.base import ConfigError
from pairsift.stages.dedup.perceptual import Perceptual

Listing = Callable[..., dict[str, Any]]
Curate = Callable[..., Any]

TWINS = {"use": "dedup.perceptual", "by": "caption", "distance": 2, "name": "twins"}


def bits(*places: int) -> str:
    return f"{sum(1 << place for place in places):016x}"


def fates(results: Any) -> list[tuple[Any, ...]]:
    names = ("status", "rejected_by", "score", "duplicate_of")
    return [tuple(fate[name] for name in names) for fate in results.fates().to_pylist()]


def test_what_a_finder_takes_out_has_its_fate(captions: Listing, curate: Curate) -> None:
    source = captions([bits(), bits(0, 1), "f" * 16, None, bits(0, 1, 2, 3)], unit_rows=2)
    keep = {"use": "filter.where", "keep": f"coalesce(caption, '') <> '{bits(0, 1)}'"}
    kept = ("success", None, None, None)
    assert fates(curate(source, TWINS)) == [
        kept,
        ("duplicate", "twins", 2, "000000000"),
        kept,
        kept,
        ("duplicate", "twins", 4, "000000000"),
    ]
    fell = fates(curate(source, keep, TWINS, replace=True))
    assert [status for status, *_ in fell] == ["success", "rejected", "success", "success", "success"], "the chain is broken"


def test_a_column_that_holds_no_hash_is_told_in_one_line(captions: Listing, curate: Curate) -> None:
    with pytest.raises(ConfigError, match=r"dedup.perceptual: column 'caption' holds 'a dog'"):
        curate(captions(["a dog", "a cat"]), TWINS)


def test_the_folder_is_removed_and_nothing_is_asked_where_there_are_no_rows(tmp_path: Path) -> None:
    folder = str(tmp_path / "found")
    assert list(found(Perceptual(), iter([]), folder, lambda: None)) == []
    table = pa.table({"ordinal": [1, 2], "generation": [0, 0], "phash": [bits(), bits()]})
    gone = found(Perceptual(), iter([table]), folder, lambda: None).read_all()
    assert gone.to_pylist() == [{"ordinal": 2, "duplicate_of": 1, "score": 0.0}]
    assert list(tmp_path.iterdir()) == []
