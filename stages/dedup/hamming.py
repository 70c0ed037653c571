"""All pairs of hashes that differ in few bits, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012): bits are
dealt into m bands. Of two hashes within distance d = r * m + a, one of the first a + 1 bands differs in at most r bits, or one
of the others in at most r - 1. So per band, buckets of equal bits are paired with those that differ in so many.
"""

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
Hashes = NDArray[np.uint64]  # (hashes, words): 64 bits a word

_WIDEST = 22  # bits of a band: its buckets are looked up in a table of so many places, int32
_NARROWEST = 8
_CHUNK = 1 << 21  # candidate pairs looked at together: about 100 MB
_PROBE, _PAIR, _STEP = 10.0, 20.0, 100_000.0  # nanoseconds, roughly: a bucket looked up, a pair compared, a step begun


def near_pairs(hashes: Hashes, distance: int, check: Callable[[], None] = lambda: None) -> Iterator[tuple[Array, Array]]:
    """Every pair (left, right) of places in `hashes` whose hashes differ in at most `distance` bits, in arrays of some
    thousand; a pair may come more than once, and either way round. `check` is called between steps, and may raise.

    Memory is O(hashes). Time depends on how evenly the hashes lie; for hashes that are equal give one only.
    """
    bits = 64 * hashes.shape[1]
    count = bands(len(hashes), bits, distance)
    for number in range(count):
        places, radius = band(number, count, bits, distance)
        if radius >= 0:
            yield from _pairs_of_band(hashes, places if count > 1 else places[:0], radius, distance, check)


def band(number: int, count: int, bits: int, distance: int) -> tuple[NDArray[np.int64], int]:
    """The bits of one of so many bands, and in how many of them hashes may differ to be compared; -1: it is not needed."""
    return np.arange(number, bits, count), distance // count - (number > distance % count)


def bands(rows: int, bits: int, distance: int, prefix: int = 0) -> int:
    """How many bands are quickest; 1: compare all with all. `prefix`: bits of each band by which hashes are dealt out first,
    so that it may be wider by so many, and has to be."""
    choices = {} if prefix else {1: rows * rows / 2 * _PAIR}
    for count in range(-(-bits // (_WIDEST + prefix)), bits // (_NARROWEST + prefix) + 1):
        width = bits / count
        # The first a + 1 bands are searched within r bits, the others within r - 1.
        radius, wide = distance // count, distance % count + 1
        looks = wide * _reach(width, radius) + (count - wide) * _reach(width, radius - 1)
        choices[count] = looks * (min(rows, 2**width) * _PROBE + rows * rows / 2**width / 2 * _PAIR + _STEP)
    return min(choices, key=lambda count: choices[count])


def distances(left: Hashes, right: Hashes) -> NDArray[np.int64]:
    """Bits in which rows differ, row by row."""
    found: NDArray[np.int64] = np.bitwise_count(left ^ right).sum(axis=1, dtype=np.int64)
    return found


def _reach(width: float, radius: int) -> float:
    """How many bands lie within so many bits of one."""
    total, ways = 0.0, 1.0
    for n in range(radius + 1):
        total += ways
        ways *= (width - n) / (n + 1)
    return total


def pairs_of_band(
    left: Hashes, right: Hashes | None, places: NDArray[np.int64], radius: int, distance: int
) -> Iterator[tuple[Array, Array]]:
    """The pairs of one band: within `left`, or (places in `left`, in `right`) between both."""
    if right is None:
        yield from _pairs_of_band(left, places, radius, distance, lambda: None)
        return
    both = np.concatenate([left, right])
    words = [np.ascontiguousarray(both[:, word]) for word in range(both.shape[1])]
    one, other = _Buckets(keys(left, places)), _Buckets(keys(right, places))
    table = np.full(1 << len(places), -1, np.int32)
    table[other.values] = np.arange(len(other.values))
    for mask in _masks(len(places), radius):
        partner = table[one.values ^ mask]
        pairs = np.flatnonzero(partner >= 0)
        others, sizes = partner[pairs], one.sizes[pairs]
        first, runs = (np.repeat(column[others], sizes) for column in (other.starts, other.sizes))
        for here, there in _chunks(_ranges(one.starts[pairs], sizes), first, runs):
            near = _within(words, one.order[here], len(left) + other.order[there], distance)
            if len(near[0]):
                yield near[0], near[1] - len(left)


class _Buckets:
    """Hashes by the key that a band gives them: `order` has their places, key by key."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        self.order = np.argsort(keys, kind="stable")
        self.values, self.starts, self.sizes = np.unique(keys[self.order], return_index=True, return_counts=True)


def _pairs_of_band(
    hashes: Hashes, places: NDArray[np.int64], radius: int, distance: int, check: Callable[[], None]
) -> Iterator[tuple[Array, Array]]:
    buckets = _Buckets(keys(hashes, places))
    order, values, starts, sizes = buckets.order, buckets.values, buckets.starts, buckets.sizes
    words = [np.ascontiguousarray(hashes[order, word]) for word in range(hashes.shape[1])]
    table = np.full(1 << len(places), -1, np.int32)
    table[values] = np.arange(len(values))
    for mask in _masks(len(places), radius):
        check()
        if mask == 0:
            ends = np.repeat(starts + sizes, sizes)
            left, first = np.arange(len(order)), np.arange(1, len(order) + 1)
            runs = ends - first
        else:
            partner = table[values ^ mask]
            pairs = np.flatnonzero((partner >= 0) & (values < values ^ mask))
            others = partner[pairs]
            left = _ranges(starts[pairs], sizes[pairs])
            first, runs = (np.repeat(column[others], sizes[pairs]) for column in (starts, sizes))
        for one, other in _chunks(left, first, runs):
            near = _within(words, one, other, distance)
            check()
            if len(near[0]):
                yield order[near[0]], order[near[1]]


def keys(hashes: Hashes, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bits at these places as one number a hash."""
    found = np.zeros(len(hashes), np.int64)
    for n, place in enumerate(places.tolist()):
        bit = (hashes[:, place // 64] >> np.uint64(place % 64)) & np.uint64(1)
        found |= bit.astype(np.int64) << n
    return found


def _masks(width: int, radius: int) -> Iterator[int]:
    for flipped in range(min(radius, width) + 1):
        for bits in combinations(range(width), flipped):
            yield sum(1 << bit for bit in bits)


def _ranges(starts: Array, sizes: Array) -> Array:
    """start, start + 1, … of each, one after the other."""
    if not len(starts):
        return np.zeros(0, np.int64)
    ends = np.cumsum(sizes)
    found: Array = np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)
    return found


def _chunks(left: Array, first: Array, runs: Array) -> Iterator[tuple[Array, Array]]:
    """(left, first), (left, first + 1), … for each run, at most _CHUNK pairs at a time."""
    ends = np.cumsum(runs)
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, _CHUNK):
        high = min(low + _CHUNK, total)
        begin, end = np.searchsorted(ends, [low, high - 1], side="right")
        part = slice(begin, end + 1)
        starts = np.maximum(ends[part] - runs[part], low)
        sizes = np.minimum(ends[part], high) - starts
        offsets = starts - (ends[part] - runs[part])
        yield np.repeat(left[part], sizes), _ranges(first[part] + offsets, sizes)


def _within(words: list[NDArray[np.uint64]], left: Array, right: Array, distance: int) -> tuple[Array, Array]:
    """The pairs that are near enough; most are seen to be too far apart before their last word."""
    far = np.zeros(len(left), np.int64)
    for word in words:
        far += np.bitwise_count(word[left] ^ word[right])
        near = far <= distance
        left, right, far = left[near], right[near], far[near]
    return left, right
