from collections import Counter
from typing import Any

import numpy as np
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.select.frequent import Frequent


def test_all_rows_of_a_crowd_go(gone: Any) -> None:
    captions = ["x", "y", "x", None, "x", "y", None, None, None]
    assert gone(Frequent(per=["caption"], most=2), caption=captions) == {0: 3, 2: 3, 4: 3}
    assert gone(Frequent(per=["caption"], most=3), caption=captions) == {}


def test_different_values_are_counted(gone: Any) -> None:
    """ALIGN: a caption that more than `most` images share."""
    captions = ["x", "x", "x", "y", "y", "y", "y"]
    urls = ["1", "2", "2", "1", "2", "3", None]
    assert set(gone(Frequent(per=["caption"], distinct=["url"], most=2), caption=captions, url=urls)) == {3, 4, 5}


def by_hand(captions: list[Any], urls: list[Any], generations: list[int], most: int) -> set[int]:
    rows = list(zip(captions, urls, generations, strict=True))
    away = set()
    for now in sorted(set(generations)):
        counts = Counter(caption for caption, _ in {(c, u) for c, u, g in rows if g <= now and c is not None and u is not None})
        away |= {n for n, (c, u, g) in enumerate(rows) if g == now and u is not None and counts[c] > most}
    return away


@pytest.mark.parametrize("frozen", [True, False])
def test_a_generation_is_judged_by_what_was_there(gone: Any, frozen: bool) -> None:
    rng = np.random.default_rng(0)
    captions = [None if n == 0 else f"c{n}" for n in rng.zipf(1.3, 2000).clip(0, 200)]
    urls = [None if n == 0 else f"u{n}" for n in rng.integers(0, 60, 2000)]
    generations = sorted(rng.integers(0, 4, 2000).tolist())
    rule = Frequent(per=["caption"], distinct=["url"], most=10, frozen=frozen)
    found = gone(rule, caption=captions, url=urls, generation=generations)
    judged = generations if frozen else [0] * 2000
    assert set(found) == by_hand(captions, urls, judged, 10)
    assert 0 < len(found) < 2000


def test_a_column_on_both_sides_is_refused() -> None:
    with pytest.raises(ConfigError, match="'url' is in per and in distinct"):
        Frequent(per=["url"], distinct=["url"], most=1).check()
    assert Frequent(per=["caption"], distinct=["url"], most=10).label() == "more than 10 url per caption"
    assert Frequent(per=["caption"], most=10).label() == "more than 10 per caption"
