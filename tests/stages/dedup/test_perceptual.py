from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pairsift.stages.base import ConfigError
from pairsift.stages.dedup.perceptual import Perceptual
from pairsift.stages.fates import Status

Found = Callable[..., pa.Table]


def bits(*places: int, of: int = 256) -> str:
    return f"{sum(1 << place for place in places):0{of // 4}x}"


def gone(table: pa.Table) -> dict[int, tuple[int, float]]:
    rows = zip(*(table[name].to_pylist() for name in ("ordinal", "duplicate_of", "score")), strict=True)
    return {ordinal - 10: (keeper - 10, score) for ordinal, keeper, score in rows}


def test_the_first_of_a_cluster_stays_and_chains_are_clusters(found: Found) -> None:
    hashes = [bits(), bits(*range(100, 120)), None, bits(0, 1), bits(0, 1, 2, 3), bits(*range(100, 121)), bits()]
    assert gone(found(Perceptual(distance=2), phash=hashes)) == {3: (0, 2), 4: (0, 4), 5: (1, 1), 6: (0, 0)}
    assert gone(found(Perceptual(distance=0), phash=hashes)) == {6: (0, 0)}
    assert gone(found(Perceptual(distance=1), phash=hashes)) == {5: (1, 1), 6: (0, 0)}


def test_the_best_stays(found: Found) -> None:
    sizes = {"width": [10, 30, 20, None, 30], "height": [10, 10, 20, 500, 10]}
    by_area = Perceptual(distance=4, best=["width", "height"])
    assert gone(found(by_area, phash=[bits(n) for n in range(5)], **sizes)) == dict.fromkeys((0, 1, 3, 4), (2, 2))
    by_width = Perceptual(distance=4, best=["width"])
    assert gone(found(by_width, phash=[bits(n) for n in range(5)], width=sizes["width"])) == dict.fromkeys((0, 2, 3, 4), (1, 2))


def test_what_was_published_stays_though_better_ones_and_bridges_come(found: Found) -> None:
    hashes = [bits(), bits(0, 1), bits(0), bits(0)]  # the third is near to the first two, which are not near each other
    rule = Perceptual(distance=1, best=["width"])
    assert gone(found(rule, phash=hashes[:2], width=[1, 2], generation=[0, 0])) == {}
    later = found(rule, phash=hashes, width=[1, 2, 50, 60], generation=[0, 0, 1, 1])
    assert gone(later) == {2: (1, 1), 3: (1, 1)}
    assert set(gone(found(rule, phash=hashes, width=[1, 2, 50, 60], generation=[0, 0, 0, 0]))) == {0, 1, 2}


def test_the_order_of_rows_and_batches_is_nothing(found: Found) -> None:
    rng = np.random.default_rng(0)
    hashes = [None if n % 13 == 0 else bits(*rng.integers(0, 24, 6), of=64) for n in range(300)]
    columns: dict[str, Any] = {
        "phash": hashes,
        "width": rng.integers(0, 5, 300),
        "generation": np.sort(rng.integers(0, 3, 300)),
    }
    rule = Perceptual(distance=3, best=["width"])
    expected = found(rule, **columns)
    assert 20 < len(expected) < 300
    for seed in range(3):
        assert found(rule, order=np.random.default_rng(seed).permutation(300), **columns) == expected


def test_nothing_to_compare(found: Found) -> None:
    assert gone(found(Perceptual(), phash=pa.array([], pa.string()))) == {}
    assert gone(found(Perceptual(), phash=pa.array([None, None], pa.string()))) == {}
    assert gone(found(Perceptual(), phash=[bits()])) == {}


@pytest.mark.parametrize(
    "hashes", [["zz" * 32], ["abc"], [""], [bits(), bits(of=64)], [bits()] * 8 + [bits(of=64)], [" " * 64]]
)
def test_what_is_no_hash(hashes: list[str], found: Found) -> None:
    with pytest.raises(ConfigError, match=r"'phash' holds|different lengths"):
        found(Perceptual(), phash=hashes)


def test_what_it_says_of_itself() -> None:
    rule = Perceptual(distance=8, best=["width", "height"])
    assert rule.label() == "phash within 8 bits, best width x height"
    assert Perceptual(name="twins").label() == "twins"
    assert rule.reads() == ("phash", "width", "height")
    assert rule.key() == ()
    assert rule.status is Status.DUPLICATE
    with pytest.raises(ValidationError, match="distance"):
        Perceptual(distance=256)
