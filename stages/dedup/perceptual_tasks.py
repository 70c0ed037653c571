"""`dedup.perceptual` dealt out.

Rows of equal hashes meet first: what differs are the *nodes*. Then each band's nodes are dealt out by the band's leading bits,
its prefix; a task looks for near pairs within one prefix, or between two whose bits differ so little that there may be any.
What it gives is a forest: few edges, however many pairs there were. The driver joins the forests. Its memory grows with the
nodes that are near another one, not with the rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.dedup.clusters import Clusters
from pairsift.stages.dedup.hamming import Array, Hashes, band, bands, distances, keys, pairs_of_band
from pairsift.stages.dedup.hashes import HashedRows, distinct
from pairsift.stages.exchange import Desk, Tasks, Written

NODES_TOGETHER = 1 << 20  # about: of one prefix, in one task's memory
_FINER = 4  # partitions for each that is asked for: their rows are held as arrays, some 300 bytes a row
_PIECE = 1 << 18  # nodes that are put in order together
_EDGES = 1 << 21  # that wait until those which stand there twice are left out
_PLACE_BITS = 40  # of a node's number: its place in its partition; the partition stands above it


class _Bands(NamedTuple):
    """How nodes are dealt out: so many bands, each by so many leading bits."""

    bands: int
    prefix: int
    bits: int
    distance: int

    def of(self, number: int) -> tuple[NDArray[np.int64], int]:
        """A band's bits, and the radius in which it is searched."""
        places, radius = band(number, self.bands, self.bits, self.distance)
        return (places if self.bands > 1 else places[:0]), radius

    def tasks(self) -> Iterator[tuple[int, int, int]]:
        """Band, and the two prefixes that are held against each other; each pair once."""
        flips = [
            (len(bits), sum(1 << bit for bit in bits)) for n in range(self.prefix + 1) for bits in _subsets(self.prefix, n)
        ]
        for number in range(self.bands):
            radius = self.of(number)[1]
            for first in range(1 << self.prefix):
                for flipped, mask in flips:
                    if flipped <= radius and first <= first ^ mask:
                        yield number, first, first ^ mask


def deal(by: str, best: list[str], distance: int, tasks: Tasks) -> Iterable[Written | None]:
    """The files of verdicts."""
    desk, many = tasks.desk, _FINER * tasks.partitions
    partitions = range(many)
    rows = _written(tasks.map(_Scatter(desk, by, tuple(best), many), tasks.parts))
    counted = list(tasks.map(_Count(desk, rows), partitions))
    bits = {64 * words for words, _ in counted if words}
    if len(bits) > 1:
        raise ConfigError(f"column {by!r} holds hashes of different lengths")
    if not bits:
        return
    how = _plan(sum(nodes for _, nodes in counted), bits.pop(), distance)
    nodes = _written(tasks.map(_Deal(desk, rows, how), partitions))
    forests = tasks.map(_Near(desk, nodes, how), list(how.tasks()))
    edges = _Edges.of(forests)
    bests = list(tasks.map(_Best(desk, rows), edges.by_partition(many)))
    yield from tasks.map(_Decide(desk, rows), list(_keepers(edges, bests, many)))


def _plan(nodes: int, bits: int, distance: int) -> _Bands:
    prefix = max(0, (-(-nodes // NODES_TOGETHER) - 1).bit_length())
    return _Bands(bands(nodes, bits, distance, prefix), prefix, bits, distance)


def _written(files: Iterable[Written | None]) -> tuple[Written, ...]:
    return tuple(file for file in files if file)


def _subsets(bits: int, count: int) -> Iterator[tuple[int, ...]]:
    return combinations(range(bits), count)


@dataclass(frozen=True)
class _Scatter:
    """Has the rows of a part that have a hash written down by hash."""

    desk: Desk
    by: str
    best: tuple[str, ...]
    partitions: int

    def __call__(self, part: Any) -> Written | None:
        return self.desk.place.write(self._pieces(part), 0, self.partitions)

    def _pieces(self, part: Any) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
        for table in self.desk.load(part):
            rows = HashedRows.read(table.to_batches(), self.by, list(self.best))
            mixed = (rows.hashes * np.uint64(0x9E3779B97F4A7C15)).sum(axis=1, dtype=np.uint64) >> np.uint64(32)
            yield _table(rows), (mixed % np.uint64(self.partitions)).astype(np.int64)


def _table(rows: HashedRows) -> pa.Table:
    words = {f"word{n}": np.ascontiguousarray(rows.hashes[:, n]) for n in range(rows.hashes.shape[1])}
    return pa.table({"ordinal": rows.ordinals, "generation": rows.generations, "value": rows.values, **words})


def _rows(tables: Iterable[pa.Table]) -> HashedRows | None:
    """All of them; None where there are none. Raises ConfigError where hashes are of different lengths."""
    found = list(tables)
    if not found:
        return None
    if len({table.num_columns for table in found}) > 1:
        raise ConfigError("hashes of different lengths")
    columns = [column.to_numpy() for column in pa.concat_tables(found).columns]
    return HashedRows(columns[0], columns[1], np.stack(columns[3:], axis=1), columns[2])


@dataclass(frozen=True)
class _Count:
    """Words of a partition's hashes (0: it has none), and how many different ones there are."""

    desk: Desk
    files: tuple[Written, ...]

    def __call__(self, partition: int) -> tuple[int, int]:
        rows = _rows(self.desk.place.read(self.files, partition))
        return (0, 0) if rows is None else (rows.hashes.shape[1], len(distinct(rows.hashes)[0]))


@dataclass(frozen=True)
class _Deal:
    """Has a partition's nodes written down, once for each band, by prefix."""

    desk: Desk
    files: tuple[Written, ...]
    how: _Bands

    def __call__(self, partition: int) -> Written | None:
        rows = _rows(self.desk.place.read(self.files, partition))
        if rows is None:
            return None
        hashes, nodes = distinct(rows.hashes)
        born = np.full(len(hashes), np.iinfo(np.int64).max)
        np.minimum.at(born, nodes, rows.generations)
        numbers = np.arange(len(hashes)) + (partition << _PLACE_BITS)
        table = _table(HashedRows(numbers, born, hashes, np.zeros(len(hashes))))
        return self.desk.place.write(self._pieces(table, hashes), 0, self.how.bands << self.how.prefix)

    def _pieces(self, table: pa.Table, hashes: Hashes) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
        for number in range(self.how.bands):
            places, radius = self.how.of(number)
            if radius >= 0:
                for start in range(0, len(table), _PIECE):
                    leading = keys(hashes[start : start + _PIECE], places[len(places) - self.how.prefix :])
                    yield table.slice(start, _PIECE), leading + (number << self.how.prefix)


@dataclass(frozen=True)
class _Near:
    """The near pairs of one band within a prefix, or between two, as a forest: left, right, since."""

    desk: Desk
    files: tuple[Written, ...]
    how: _Bands

    def __call__(self, item: tuple[int, int, int]) -> tuple[Array, Array, Array]:
        number, first, second = item
        places, radius = self.how.of(number)
        low, left = places[: len(places) - self.how.prefix], self._nodes(number, first)
        right = left if first == second else self._nodes(number, second)
        none = np.zeros(0, np.int64)
        if left is None or right is None:
            return none, none, none
        both = left if first == second else _both(left, right)
        shift = 0 if first == second else len(left.hashes)
        clusters = Clusters(both.generations)
        radius -= (first ^ second).bit_count()
        for one, other in pairs_of_band(left.hashes, right.hashes if shift else None, low, radius, self.how.distance):
            clusters.join(one, other + shift)
        one, other, since = clusters.forest()
        return both.ordinals[one], both.ordinals[other], since

    def _nodes(self, number: int, prefix: int) -> HashedRows | None:
        return _rows(self.desk.place.read(self.files, (number << self.how.prefix) + prefix))


def _both(left: HashedRows, right: HashedRows) -> HashedRows:
    names = ("ordinals", "generations", "hashes", "values")
    return HashedRows(*(np.concatenate([getattr(left, name), getattr(right, name)]) for name in names))


class _Edges(NamedTuple):
    """The nodes that are near another one, rising, and how they hang together."""

    nodes: Array
    clusters: Clusters
    generations: Array  # in which there are edges, rising

    @classmethod
    def of(cls, forests: Iterable[tuple[Array, Array, Array]]) -> "_Edges":
        held = np.zeros((3, 0), np.int64)
        waiting: list[NDArray[np.int64]] = []
        for one, other, born in forests:
            waiting.append(np.stack([np.minimum(one, other), np.maximum(one, other), born]))
            if sum(edges.shape[1] for edges in waiting) > max(_EDGES, held.shape[1]):
                held, waiting = _once(held, waiting), []
        left, right, since = _once(held, waiting)
        nodes = np.unique(np.concatenate([left, right]))
        clusters = Clusters(np.zeros(len(nodes), np.int64))
        clusters.join(np.searchsorted(nodes, left), np.searchsorted(nodes, right), since)
        return cls(nodes, clusters, np.unique(since))

    def by_partition(self, partitions: int) -> list[tuple[int, Array]]:
        """A partition, and the places of its nodes."""
        bounds = np.searchsorted(self.nodes, np.arange(partitions + 1) << _PLACE_BITS)
        return [(n, self.nodes[bounds[n] : bounds[n + 1]] - (n << _PLACE_BITS)) for n in range(partitions)]


def _once(held: NDArray[np.int64], more: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Edges (left, right, since), by left and right, each once and as old as can be: most pairs are near in several bands."""
    edges = np.concatenate([held, *more], axis=1)
    edges = edges[:, np.lexsort((edges[2], edges[1], edges[0]))]
    new = np.ones(edges.shape[1], bool)
    new[1:] = (edges[:2, 1:] != edges[:2, :-1]).any(axis=0)
    return edges[:, new]


@dataclass(frozen=True)
class _Best:
    """Of some of a partition's nodes, the row of each that stays if it is up to the node: partition, and these rows."""

    desk: Desk
    files: tuple[Written, ...]

    def __call__(self, item: tuple[int, Array]) -> tuple[int, HashedRows | None]:
        partition, places = item
        rows = _rows(self.desk.place.read(self.files, partition)) if len(places) else None
        if rows is None:
            return partition, None
        return partition, _taken(rows, _firsts(rows, distinct(rows.hashes)[1])[places])


def _firsts(rows: HashedRows, nodes: Array) -> Array:
    """For each node the row that comes first by generation, value and ordinal."""
    order = np.lexsort((rows.ordinals, -rows.values, rows.generations))
    first = np.empty(nodes.max() + 1, np.int64)
    first[nodes[order[::-1]]] = order[::-1]  # of those that are written to one place, the last one stays
    return first


def _taken(rows: HashedRows, places: Array) -> HashedRows:
    return HashedRows(rows.ordinals[places], rows.generations[places], rows.hashes[places], rows.values[places])


class _Kept(NamedTuple):
    """What is kept in a node's place from a generation on, where it is another node's row. By node and generation."""

    partition: int
    places: Array  # the nodes'
    since: Array
    ordinals: Array  # of the rows that are kept
    hashes: Hashes


def _keepers(edges: _Edges, found: list[tuple[int, HashedRows | None]], partitions: int) -> Iterator[_Kept]:
    best = [rows for _, rows in sorted(found, key=lambda one: one[0]) if rows is not None]
    if not best:
        none = np.zeros(0, np.int64)
        yield from (_Kept(n, none, none, none, np.zeros((0, 1), np.uint64)) for n in range(partitions))
        return
    rows = best[0]
    for more in best[1:]:
        rows = _both(rows, more)
    order = np.lexsort((rows.ordinals, -rows.values, rows.generations))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    before, moved = np.arange(len(order)), []
    for generation, labels in zip(edges.generations.tolist(), edges.clusters.at(edges.generations), strict=True):
        first = np.full(len(labels), len(labels), np.int64)
        np.minimum.at(first, labels, rank)
        now = order[first[labels]]
        nodes = np.flatnonzero(now != before)
        moved.append((nodes, np.full(len(nodes), generation), now[nodes]))
        before = now
    nodes, since, kept = map(np.concatenate, zip(*moved, strict=True))
    by_node = np.lexsort((since, nodes))
    nodes, since, kept = nodes[by_node], since[by_node], kept[by_node]
    numbers = edges.nodes[nodes]
    bounds = np.searchsorted(numbers, np.arange(partitions + 1) << _PLACE_BITS)
    for n in range(partitions):
        part = slice(bounds[n], bounds[n + 1])
        yield _Kept(n, numbers[part] - (n << _PLACE_BITS), since[part], rows.ordinals[kept[part]], rows.hashes[kept[part]])


@dataclass(frozen=True)
class _Decide:
    """Has the rows of a partition that go written down."""

    desk: Desk
    files: tuple[Written, ...]

    def __call__(self, kept: _Kept) -> Written | None:
        rows = _rows(self.desk.place.read(self.files, kept.partition))
        if rows is None:
            return None
        nodes = distinct(rows.hashes)[1]
        own = _firsts(rows, nodes)[nodes]
        keepers, hashes = rows.ordinals[own], rows.hashes.copy()
        if len(kept.places):
            top = int(max(kept.since.max(), rows.generations.max())) + 1
            place = np.searchsorted(kept.places * top + kept.since, nodes * top + rows.generations, "right") - 1
            there = np.flatnonzero((place >= 0) & (kept.places[place] == nodes))
            keepers[there], hashes[there] = kept.ordinals[place[there]], kept.hashes[place[there]]
        gone = np.flatnonzero(keepers != rows.ordinals)
        far = distances(rows.hashes[gone], hashes[gone]).astype(np.float64)
        return self.desk.write(pa.table({"ordinal": rows.ordinals[gone], "duplicate_of": keepers[gone], "score": far}))
