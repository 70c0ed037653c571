"""Near vectors found by tasks: what one process finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError, Scratch
from pairsift.stages.dedup import kmeans
from pairsift.stages.dedup.semantic import Semantic

Dealt = Callable[..., pa.Table]


def rows(count: int, kind: Any = np.float16, generations: int = 2) -> pa.Table:
    """Vectors around some, a few of them unusable."""
    rng = np.random.default_rng(count)
    vectors = (
        rng.normal(size=(count // 5, 6))[rng.integers(0, count // 5, count)] + 0.05 * rng.normal(size=(count, 6))
    ).astype(kind)
    vectors[::17] = 0
    vectors[::29] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 6, mask=pa.array(np.arange(count) % 13 == 5))
    born = np.arange(count) * generations // count
    return pa.table({"ordinal": np.arange(count), "generation": born, "image_embedding": column})


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
@pytest.mark.parametrize(("clusters", "kind"), [(1, np.float16), (9, np.float32), (None, np.float16)])
def test_what_one_process_finds(
    keep: Any, clusters: int | None, kind: Any, dealt: Dealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "SAMPLE", 10)  # fewer rows than there are: which ones, is part of the answer
    monkeypatch.setattr("pairsift.stages.dedup.semantic_tasks.SAMPLE", 10)
    table, rule = rows(300, kind), Semantic(similarity=0.95, clusters=clusters, keep=keep, seed=3)
    alone = rule.find(table.to_reader(50), Scratch(str(tmp_path), 1 << 26)).sort_by("ordinal")
    assert 20 < len(alone) < 280
    assert dealt(rule, table).to_pydict() == alone.to_pydict()
    assert dealt(rule, table, partitions=5, part_rows=100).to_pydict() == alone.to_pydict()


def test_no_vectors_at_all(dealt: Dealt) -> None:
    table = rows(30)
    nothing = pa.nulls(30, table["image_embedding"].type)
    assert not len(dealt(Semantic(), table.set_column(2, "image_embedding", nothing)))


def test_a_column_of_something_else(dealt: Dealt) -> None:
    with pytest.raises(ConfigError, match="fixed_size_list"):
        dealt(Semantic(), rows(30).set_column(2, "image_embedding", pa.array(["a"] * 30)))
