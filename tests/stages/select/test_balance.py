import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.select.balance import Balance

ROWS = 20_000


def matches() -> list[list[int] | None]:
    """Entries per row: a few are in thousands of rows, most in hardly any; every tenth row has none or is null."""
    rng = np.random.default_rng(0)
    found: list[list[int] | None] = [sorted(set(row)) for row in rng.zipf(1.4, (ROWS, 3)).clip(0, 3000).tolist()]
    found[::20] = [[] for _ in found[::20]]
    found[7::20] = [None] * len(found[7::20])
    return found


def columns() -> dict[str, Any]:
    return {"uid": [f"{n:032x}" for n in range(ROWS)], "entries": pa.array(matches(), pa.list_(pa.int32()))}


def drawn(seed: int, uid: str, entry: int) -> float:
    return int(hashlib.md5(f"{seed}/{uid}/{entry}".encode()).hexdigest()[:13], 16) / 2**52


def test_it_is_the_papers_rule_with_an_md5_for_a_generator(gone: Any) -> None:
    given, rows = columns(), matches()
    counts = Counter(entry for row in rows for entry in row or [])
    expected = {
        n
        for n, (uid, row) in enumerate(zip(given["uid"], rows, strict=True))
        if not any(drawn(5, uid, entry) < min(1, 50 / counts[entry]) for entry in row or [])
    }
    found = gone(Balance(per_entry=50, seed=5), **given)
    assert set(found) == expected
    assert all((score is None) == (not rows[n]) for n, score in found.items())


def test_rare_entries_stay_whole_and_frequent_ones_are_thinned(gone: Any) -> None:
    away = gone(Balance(per_entry=50), **columns())
    before = Counter(entry for row in matches() for entry in row or [])
    after = Counter(entry for n, row in enumerate(matches()) if n not in away for entry in row or [])
    assert all(after[entry] == count for entry, count in before.items() if count <= 50)
    alone = Counter(row[0] for n, row in enumerate(matches()) if n not in away and row and len(row) == 1)
    first, share = before.most_common(1)[0]
    expected = 50 / share * sum(row == [first] for row in matches())
    assert abs(alone[first] - expected) < 5 * expected**0.5 + 1


@pytest.mark.parametrize("frozen", [True, False])
def test_new_input(gone: Any, frozen: bool) -> None:
    given, half = columns(), ROWS // 2
    rule = Balance(per_entry=50, frozen=frozen)
    first = gone(rule, **{name: values[:half] for name, values in given.items()})
    both = gone(rule, **given, generation=[0] * half + [1] * half)
    assert ({n for n in both if n < half} == set(first)) == frozen
    assert (set(both) == set(gone(rule, **given))) == (not frozen)
