from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pairsift.stages.select.rare_words import RareWords


def by_hand(captions: list[str | None], vocabulary: int) -> set[int]:
    tokens = []
    for caption in captions:
        words = (caption or "").lower().split()
        tokens.append([*words, *(f"{a} {b}" for a, b in pairwise(words))])
    counts = Counter(token for row in tokens for token in row)
    ranked = sorted(counts.values(), reverse=True)
    least = ranked[vocabulary - 1] if vocabulary <= len(ranked) else 0
    return {n for n, row in enumerate(tokens) if any(counts[token] < least for token in row)}


@pytest.mark.parametrize("vocabulary", [1, 20, 60, 100, 100_000])
def test_what_holds_a_rare_word_or_pair_goes(gone: Any, vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    words = ["Cat", "ÇA", "cat", "日本", "don't", "🙂", *(f"w{n}" for n in range(200))]
    picks = rng.zipf(1.5, (800, 4)).clip(0, len(words)) - 1
    captions: list[str | None] = ["\t".join([words[i] for i in row[: n % 5]]) for n, row in enumerate(picks.tolist())]
    captions[::50] = [None] * len(captions[::50])
    captions[1::50] = [" \u2003\n one\u00a0two "] * len(captions[1::50])
    found = set(gone(RareWords(vocabulary=vocabulary), caption=captions))
    assert found == by_hand(captions, vocabulary)
    assert bool(found) == (vocabulary < 100_000)


def test_a_generation_has_its_own_vocabulary(gone: Any) -> None:
    captions = ["red cat", "red cat", "blue dog", "blue dog", "blue dog", "red cat"]
    generations = [0, 0, 0, 1, 1, 1]
    assert set(gone(RareWords(vocabulary=3), caption=captions, generation=generations)) == {2, 5}
    assert gone(RareWords(vocabulary=3, frozen=False), caption=captions, generation=generations) == {}
