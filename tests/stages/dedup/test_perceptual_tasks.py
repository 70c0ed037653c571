"""Near hashes found by tasks: what one process finds."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError, Scratch
from pairsift.stages.dedup import perceptual_tasks
from pairsift.stages.dedup.perceptual import Perceptual

Dealt = Callable[..., pa.Table]


def rows(seed: int, count: int, bits: int, generations: int = 1) -> pa.Table:
    """Hashes around a few, some equal, some null; a value each; generations by ordinal."""
    rng = random.Random(seed)
    around = [rng.getrandbits(bits) for _ in range(count // 6 + 1)]
    hashes = []
    for _ in range(count):
        value = rng.choice(around)
        for _ in range(rng.choice([0, 0, 1, 3, 6])):
            value ^= 1 << rng.randrange(bits)
        hashes.append(None if rng.random() < 0.05 else f"{value:0{bits // 4}x}")
    return pa.table(
        {
            "ordinal": range(count),
            "generation": [n * generations // count for n in range(count)],
            "phash": pa.array(hashes, pa.string()),
            "size": [rng.choice([None, 1.0, 2.0, float("nan")]) for _ in range(count)],
        }
    )


@pytest.mark.parametrize(
    ("seed", "bits", "distance", "generations", "best", "together"),
    [
        (1, 256, 15, 1, [], 1 << 20),
        (2, 256, 15, 3, [], 25),
        (3, 256, 31, 3, ["size"], 6),
        (4, 64, 6, 4, ["size"], 10),
        (5, 64, 3, 2, [], 3),
        (6, 64, 0, 2, [], 50),
        (7, 64, 40, 1, [], 1 << 20),
    ],
)
def test_what_one_process_finds(
    seed: int, bits: int, distance: int, generations: int, best: list[str], together: int,
    dealt: Dealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(perceptual_tasks, "NODES_TOGETHER", together)
    monkeypatch.setattr(perceptual_tasks, "_EDGES", 20)
    monkeypatch.setattr(perceptual_tasks, "_PIECE", 7)
    table, rule = rows(seed, 200, bits, generations), Perceptual(distance=distance, best=best)
    alone = rule.find(table.to_reader(50), Scratch(str(tmp_path), 1 << 26)).sort_by("ordinal")
    assert len(alone) > 10
    for partitions in (2, 7):
        assert dealt(rule, table, partitions).to_pydict() == alone.to_pydict()


def test_no_hashes_at_all(dealt: Dealt) -> None:
    table = rows(1, 10, 64).set_column(2, "phash", pa.nulls(10, pa.string()))
    assert not len(dealt(Perceptual(), table))
    assert not len(dealt(Perceptual(), table.slice(0, 0)))


def test_hashes_of_different_lengths(dealt: Dealt) -> None:
    table = pa.concat_tables([rows(1, 40, 64), rows(2, 40, 256)])
    with pytest.raises(ConfigError, match="different lengths"):
        dealt(Perceptual(), table)


def test_each_pair_of_prefixes_is_looked_at_once() -> None:
    how = perceptual_tasks._Bands(8, 3, 256, 15)
    tasks = list(how.tasks())
    assert len(set(tasks)) == len(tasks) == 8 * (8 + 8 * 3 // 2), "within a radius of 1: the same prefix, and one bit beside"
    assert perceptual_tasks._plan(1 << 20, 256, 15).prefix == 0
    assert perceptual_tasks._plan((1 << 20) + 1, 256, 15).prefix == 1
    assert perceptual_tasks._plan(5_850_000_000, 256, 15).prefix == 13


def test_an_edge_holds_from_the_first_time_on() -> None:
    held, more = np.array([[1, 4], [2, 5], [7, 1]]), np.array([[1, 1, 4], [2, 3, 5], [3, 9, 2]])
    assert perceptual_tasks._once(held, [more]).tolist() == [[1, 1, 4], [2, 3, 5], [3, 9, 1]]
