import math
from collections import defaultdict
from typing import Any

import numpy as np

from pairsift.stages.select.cap import Cap


def test_the_first_of_each_group_stay(gone: Any) -> None:
    domains = ["a", "b", "a", None, "a", "b", None, None, "a"]
    assert set(gone(Cap(per=["domain"], rows=2), domain=domains)) == {4, 8}
    assert set(gone(Cap(per=["domain"], rows=1), domain=domains)) == {2, 4, 5, 8}
    assert gone(Cap(per=["domain"], rows=4), domain=domains) == {}


def test_the_best_of_each_group_stay(gone: Any) -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 1000).tolist()
    scores = [None if s < 0.1 else math.nan if s < 0.2 else round(s, 1) for s in rng.random(1000).tolist()]
    for largest in (True, False):
        members = defaultdict(list)
        for n, (group, score) in enumerate(zip(groups, scores, strict=True)):
            unknown = score is None or math.isnan(score)
            members[group].append((unknown, 0.0 if score is None or unknown else -score if largest else score, n))
        expected = {n for rows in members.values() for *_, n in sorted(rows)[7:]}
        found = gone(Cap(per=["group"], rows=7, best="score", largest=largest), group=groups, score=scores)
        assert set(found) == expected
        assert repr(found) == repr({n: scores[n] for n in found}), "nan is not equal to itself"


def test_new_input_takes_nothing_out(gone: Any) -> None:
    rng = np.random.default_rng(1)
    groups, scores = rng.integers(0, 9, 300).tolist(), rng.random(300).tolist()
    cap = Cap(per=["group"], rows=20, best="score")
    first = gone(cap, group=groups[:150], score=scores[:150])
    both = gone(cap, group=groups, score=scores, generation=[0] * 150 + [1] * 150)
    assert {n for n in both if n < 150} == set(first)
    assert len(both) == 300 - 9 * 20


def test_a_group_may_be_of_several_columns(gone: Any) -> None:
    cap = Cap(per=["a", 'b"'], rows=1)
    assert set(gone(cap, **{"a": [1, 1, 1, None, None], 'b"': ["x", "y", "x", "x", "x"]})) == {2}
    assert cap.label() == 'at most 1 per a, b"'
