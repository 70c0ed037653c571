"""Connected components over generations of input, and who is kept of each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

_BUFFER = 1 << 20  # edges, or one per node, are gathered before they are joined


class Clusters:
    """Nodes, joined by edges that come in any order and any number; memory is O(nodes).

    An edge is as old as the younger of its two nodes. What is joined at generation g are the edges up to g: so what is added
    later changes nothing of how earlier nodes hung together among themselves.
    """

    def __init__(self, born: Array) -> None:
        """`born`: the generation of each node."""
        self._born = born
        self._edges: list[tuple[Array, Array, Array]] = []  # left, right, the generation from which on it holds
        self._waiting = 0

    def join(self, left: Array, right: Array, since: Array | None = None) -> None:
        """Add edges; `since`: from which generation on each holds, where that is not the younger node's."""
        held = np.maximum(self._born[left], self._born[right]) if since is None else since
        self._edges.append((left, right, held))
        self._waiting += len(left)
        if self._waiting >= max(_BUFFER, len(self._born)):
            self._thin_out()

    def at(self, generations: Array) -> Iterator[Array]:
        """For each of these generations, rising and none left out that has edges: of each node's component then the lowest."""
        none = np.zeros(0, np.int64)
        left, right, since = map(np.concatenate, zip((none, none, none), *self._edges, strict=True))
        labels = np.arange(len(self._born))
        for generation in generations.tolist():
            now = since == generation
            labels = _joined(labels, left[now], right[now])
            yield labels

    def forest(self) -> tuple[Array, Array, Array]:
        """Edges that join the same nodes at each generation, fewer than nodes times generations: left, right, since."""
        if self._edges:
            self._thin_out()
        none = np.zeros(0, np.int64)
        left, right, since = map(np.concatenate, zip((none, none, none), *self._edges, strict=True))
        return left, right, since

    def _thin_out(self) -> None:
        """Edges → a forest that joins the same nodes at each generation."""
        nodes, kept = np.arange(len(self._born)), []
        before, there = nodes, np.unique(np.concatenate([since for _, _, since in self._edges]))
        for generation, labels in zip(there.tolist(), self.at(there), strict=True):
            moved = np.flatnonzero((before != labels) & (before == nodes))  # nodes that were the lowest of theirs
            kept.append((moved, labels[moved], np.full(len(moved), generation)))
            before = labels
        self._edges, self._waiting = kept, 0


def _joined(labels: Array, left: Array, right: Array) -> Array:
    """Labels after the edges: each node points at the lowest node of its component, before and after."""
    labels = labels.copy()
    while len(left):
        one, other = labels[left], labels[right]
        apart = one != other
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while True:
            further = labels[labels]
            if np.array_equal(further, labels):
                break
            labels = further
    return labels


def keepers(clusters: Clusters, nodes: Array, generations: Array, rank: Array) -> Array:
    """For each row the row that is kept in its place: itself, if it stays.

    `nodes`: each row's node. `generations`: each row's. `rank`: 0, 1, …, all different; of a cluster the row with the lowest
    stays. Rows of an earlier generation must have lower ranks than all of later ones: then no row that stays is ever displaced.
    """
    by_rank = np.argsort(rank)
    found = np.arange(len(nodes))
    there = np.unique(generations)
    for generation, labels in zip(there.tolist(), clusters.at(there), strict=True):
        own = labels[nodes]
        best = np.full(len(labels), len(nodes), np.int64)
        np.minimum.at(best, own, rank)
        now = generations == generation
        found[now] = by_rank[best[own[now]]]
    return found
