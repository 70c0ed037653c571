"""Which row goes to which shard, against a plain loop."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsift.pipeline.ledger.tar import archive_bytes
from pairsift.pipeline.pack.places import Numbering, shard_keys
from pairsift.pipeline.sections import Shards

ROWS = st.lists(st.lists(st.integers(1, 60), max_size=12), max_size=4)  # by generation, each row's blocks; 0 is a row that goes


def expected(shards: Shards, generations: list[list[int]], uids: list[list[str]]) -> dict[str, str | None]:
    """The shard of each uid that is kept."""
    found: dict[str, str | None] = {}
    closed, waiting = 0, []
    for sizes, names in zip(generations, uids, strict=True):
        rows = list(zip(names, sizes, strict=True))
        if shards.shuffle_seed is not None:
            rows.sort(key=lambda row: hashlib.md5(f"{shards.shuffle_seed} {row[0]}".encode()).digest()[:8])
        for row in rows:
            total = sum(size for _, size in waiting) + row[1]
            too_large = shards.max_bytes is not None and archive_bytes(total) > shards.max_bytes
            if waiting and (len(waiting) == shards.rows or too_large):
                found |= {name: f"{closed:05d}" for name, _ in waiting}
                closed, waiting = closed + 1, []
            waiting.append(row)
        if waiting and (shards.tail == "short" or len(waiting) == shards.rows):
            found |= {name: f"{closed:05d}" for name, _ in waiting}
            closed, waiting = closed + 1, []
    return found | {name: None for name, _ in waiting}


@given(
    generations=ROWS,
    rows=st.integers(1, 6),
    max_bytes=st.none() | st.sampled_from([1, 10_240, 20_480, 51_200]),
    seed=st.none() | st.integers(),
    tail=st.sampled_from(["short", "hold"]),
    batch=st.integers(1, 7),
)
def test_shards_are_what_counting_says(
    generations: list[list[int]], rows: int, max_bytes: int | None, seed: int | None, tail: str, batch: int
) -> None:
    shards = Shards.model_validate({"rows": rows, "max_bytes": max_bytes, "shuffle_seed": seed, "tail": tail})
    uids = [[f"{number}-{row}" for row in range(len(sizes))] for number, sizes in enumerate(generations)]
    flat = [size for sizes in generations for size in sizes]
    blocks = (np.array(flat[start : start + batch], np.int64) for start in range(0, len(flat), batch))
    keys = None if seed is None else shard_keys(seed, [uid for names in uids for uid in names])
    numbering = Numbering(shards, [len(sizes) for sizes in generations], keys, blocks)
    # Between the kept rows are others, and they come in batches of any length.
    kept = np.array([here for _ in flat for here in (False, True)], bool)
    found = [
        name
        for start in range(0, len(kept), batch)
        for name, here in zip(numbering.take(kept[start : start + batch]).to_pylist(), kept[start : start + batch], strict=True)
        if here
    ]
    wanted = expected(shards, generations, uids)
    assert found == [wanted[uid] for names in uids for uid in names]


@given(generations=ROWS, rows=st.integers(1, 6), seed=st.none() | st.integers(0, 3), tail=st.sampled_from(["short", "hold"]))
def test_a_new_generation_moves_nothing(generations: list[list[int]], rows: int, seed: int | None, tail: str) -> None:
    shards = Shards.model_validate({"rows": rows, "shuffle_seed": seed, "tail": tail})
    before: list[str | None] = []
    for number in range(1, len(generations) + 1):
        kept = [len(sizes) for sizes in generations[:number]]
        keys = None if seed is None else shard_keys(seed, map(str, range(sum(kept))))
        after = Numbering(shards, kept, keys).take(np.ones(sum(kept), bool)).to_pylist()
        for old, new in zip(before, after, strict=False):
            assert old == new or (old is None and tail == "hold")
        before = after


def test_rows_that_go_are_in_no_shard() -> None:
    found = Numbering(Shards(rows=1), [2]).take(np.array([False, True, False, True]))
    assert found.to_pylist() == [None, "00000", None, "00001"]
    assert found.type == pa.string()
    assert Numbering(Shards(), []).take(np.zeros(0, bool)).to_pylist() == []


def test_keys_are_pinned() -> None:
    """They decide what published shards hold."""
    assert shard_keys(7, ["a", "größer"]).tolist() == [
        int(hashlib.md5(b"7 a").hexdigest()[:16], 16),
        int(hashlib.md5("7 größer".encode()).hexdigest()[:16], 16),
    ]


@pytest.mark.parametrize("number", [99_999, 100_000])
def test_numbers_of_more_than_five_digits(number: int) -> None:
    names = Numbering(Shards(rows=1), [number + 1]).take(np.ones(number + 1, bool))
    assert names[number].as_py() == str(number)
