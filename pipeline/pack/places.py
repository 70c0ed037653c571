"""Which row goes to which shard: kept rows stand in a row, and shards are cut from it one after the other.

The order is the input's, or by `shard_keys` within each generation. A place is a kept row's position in that order over all
generations, from 0. Generations follow each other, so what earlier ones got never moves.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pairsift.pipeline.ledger import tar
from pairsift.pipeline.ledger.ranges import Numbers
from pairsift.pipeline.sections import Shards


def shard_keys(seed: int, uids: Iterable[str]) -> Numbers:
    """uint64: what a generation's rows are sorted by where shards are shuffled; ties are broken by ordinal. 64 bits of an MD5
    over seed and uid: the same on every machine and in every version of what is underneath."""
    start = hashlib.md5(f"{seed} ".encode(), usedforsecurity=False)
    digests = []
    for uid in uids:
        digest = start.copy()
        digest.update(uid.encode())
        digests.append(digest.digest()[:8])
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


class Numbering:
    """Gives rows their shards as they stream by in ordinal order."""

    def __init__(self, shards: Shards, kept: list[int], keys: Numbers | None = None, blocks: Iterable[Numbers] = ()) -> None:
        """`kept`: how many rows of each generation are in shards. Of these rows, in ordinal order: `keys`, their `shard_keys`
        where they are shuffled; `blocks`, where `shards.max_bytes` is set, their sizes in blocks of a tar, in arrays of any
        length."""
        self._places = None if keys is None else _sorted_places(kept, keys)
        if self._places is not None and shards.max_bytes is not None:
            by_ordinal = np.concatenate([np.empty(0, np.int32), *(part.astype(np.int32) for part in blocks)])
            by_place = np.empty_like(by_ordinal)
            by_place[self._places] = by_ordinal
            blocks = [by_place]
        self._starts = first_places(shards, kept, blocks)
        self._passed = 0  # rows that have streamed by and are in shards

    def take(self, kept: Numbers) -> pa.Array:
        """The shards ("00000") of the next rows, given which of them are in shards; null for the others, and for the held."""
        ranks = self._passed + np.cumsum(kept) - 1
        self._passed += int(kept.sum())
        places = np.full(len(kept), -1, np.int64)
        places[kept] = ranks[kept] if self._places is None else self._places[ranks[kept]]
        return _names(self._starts, places)


def _sorted_places(kept: list[int], keys: Numbers) -> Numbers:
    """The place of each row, within its generation by key."""
    places = np.empty(len(keys), np.int64)
    first = 0
    for rows in kept:
        order = np.argsort(keys[first : first + rows], kind="stable")
        places[first + order] = np.arange(first, first + rows)
        first += rows
    return places


def first_places(shards: Shards, kept: list[int], blocks: Iterable[Numbers] = ()) -> Numbers:
    """The place where each shard begins, and that where the last ends. Rows from there on are held.

    `kept` is how many rows each generation keeps. Where `shards.max_bytes` is set, `blocks` are the blocks of a tar that each
    sample takes, by place, in arrays of any length.
    """
    groups = [sum(kept)] if shards.tail == "hold" else [rows for rows in kept if rows]
    if shards.max_bytes is None:
        return _by_rows(shards, groups)
    closer = _Closer(shards.rows, tar.most_blocks(shards.max_bytes))
    sizes = _Stream(blocks)
    for rows in groups:
        for part in sizes.take(rows):
            closer.add(part)
        if shards.tail == "short":
            closer.close()
    return np.array(closer.starts, np.int64)


def _by_rows(shards: Shards, groups: list[int]) -> Numbers:
    starts = [np.zeros(1, np.int64)]
    base = 0
    for rows in groups:
        ends = np.arange(shards.rows, rows + 1, shards.rows, dtype=np.int64)
        if rows % shards.rows and shards.tail == "short":
            ends = np.append(ends, rows)
        starts.append(base + ends)
        base += rows
    return np.concatenate(starts)


class _Stream:
    """Takes numbers off a sequence of arrays."""

    def __init__(self, arrays: Iterable[Numbers]) -> None:
        self._arrays = iter(arrays)
        self._left = np.empty(0, np.int64)

    def take(self, count: int) -> Iterable[Numbers]:
        while count:
            if not len(self._left):
                self._left = next(self._arrays)
            part, self._left = self._left[:count], self._left[count:]
            count -= len(part)
            yield part


class _Closer:
    """Closes a shard before the sample that would make it too long or too large. One sample always fits."""

    def __init__(self, rows: int, most: int) -> None:
        self._rows, self._most = rows, most
        self._open = np.empty(0, np.int64)  # blocks of the samples in the shard that is open
        self.starts = [0]

    def add(self, blocks: Numbers) -> None:
        waiting = np.concatenate([self._open, blocks])
        ends = np.cumsum(waiting)
        first = 0
        while True:
            before = int(ends[first - 1]) if first else 0
            fitting = int(np.searchsorted(ends, before + self._most, side="right"))
            last = min(max(fitting, first + 1), first + self._rows)
            if last > len(waiting) or (last == len(waiting) and last - first < self._rows):
                break
            self.starts.append(self.starts[-1] + last - first)
            first = last
        self._open = waiting[first:]

    def close(self) -> None:
        """Close the shard that is open, if it has a sample."""
        if len(self._open):
            self.starts.append(self.starts[-1] + len(self._open))
            self._open = np.empty(0, np.int64)


def _names(starts: Numbers, places: Numbers) -> pa.Array:
    numbers = np.searchsorted(starts, places, side="right") - 1
    none = (places < 0) | (numbers >= len(starts) - 1)
    used, indices = np.unique(numbers, return_inverse=True)
    names = pa.array([f"{number:05d}" for number in used.tolist()], pa.string())
    return names.take(pa.array(indices, mask=none))
