from typing import Any

import numpy as np
import pytest

from pairsift.stages.dedup import clusters
from pairsift.stages.dedup.clusters import Clusters, keepers


def components(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    """By walking: the lowest node of each node's component."""
    labels = list(range(nodes))
    changed = True
    while changed:
        changed = False
        for left, right in edges:
            low = min(labels[left], labels[right])
            changed |= labels[left] != low or labels[right] != low
            labels[left] = labels[right] = low
    return labels


def at_last(found: Clusters) -> Any:
    return list(found.at(np.unique(found._born)))[-1].tolist()


def test_a_chain_is_one_cluster_in_any_order_of_its_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(1000)
        found = Clusters(np.zeros(1000, np.int64))
        for part in np.array_split(rng.permutation(999), 7):
            found.join(order[part], order[part + 1])
        assert at_last(found) == [0] * 1000


@pytest.mark.parametrize("buffer", [1, 1 << 20])
def test_random_graphs(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_BUFFER", buffer)
    rng = np.random.default_rng(1)
    for edges in (0, 20, 40, 80, 200):
        left, right = rng.integers(0, 100, (2, edges))
        found = Clusters(np.zeros(100, np.int64))
        for part in np.array_split(np.arange(edges), 5):
            found.join(left[part], right[part])
        assert at_last(found) == components(100, list(zip(left.tolist(), right.tolist(), strict=True)))


@pytest.mark.parametrize("buffer", [1, 1 << 20])
def test_what_comes_later_joins_nothing_among_what_was_there(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_BUFFER", buffer)
    rng = np.random.default_rng(2)
    born = rng.integers(0, 4, 60)
    left, right = rng.integers(0, 60, (2, 90))
    found = Clusters(born)
    for part in np.array_split(np.arange(90), 9):
        found.join(left[part], right[part])
    for generation, labels in enumerate(found.at(np.arange(4))):
        old = [(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True) if max(born[a], born[b]) <= generation]
        assert labels.tolist() == components(60, old)


def test_a_bridge_that_comes_later_goes_and_takes_nobody_with_it() -> None:
    """Rows 0 and 1 were published apart; row 2 is near to both."""
    generations = np.array([0, 0, 1, 2])
    found = Clusters(generations)
    found.join(np.array([0, 1, 2]), np.array([2, 2, 3]))
    assert keepers(found, np.arange(4), generations, np.array([1, 0, 2, 3])).tolist() == [0, 1, 1, 1]


def test_rows_that_come_later_to_a_node_that_was_there() -> None:
    """No node is born with the last generation."""
    found = Clusters(np.array([0, 0]))
    nodes, generations = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 2])
    assert keepers(found, nodes, generations, np.arange(4)).tolist() == [0, 1, 1, 0]
    found.join(np.array([0]), np.array([1]))
    assert keepers(found, nodes, generations, np.arange(4)).tolist() == [0, 0, 0, 0]


def test_no_nodes() -> None:
    none = np.zeros(0, np.int64)
    assert keepers(Clusters(none), none, none, none).tolist() == []
