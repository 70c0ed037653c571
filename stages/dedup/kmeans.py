"""Spherical k-means that comes out the same wherever it is run: products and sums are of whole numbers."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pairsift.stages.dedup.vectors import COARSE, Array, Store

_ITERATIONS = 10
SAMPLE = 100  # vectors per centroid that it is fitted to
_BLOCK = 1 << 24  # numbers of a block, of vectors or of products: 64 MB

Centroids = NDArray[np.float32]  # (clusters, dim), whole numbers


def fit(store: Store, among: Array, clusters: int, seed: int, check: Callable[[], None]) -> Centroids:
    """Centroids of the rows `among`, of a sample of at most 100 a cluster. The first ones are vectors of the sample."""
    sample = among[np.argsort(chance(store.ordinals[among], seed), kind="stable")][: clusters * SAMPLE]
    centroids = store.whole(sample[:clusters], COARSE).astype(np.float32)
    for _ in range(_ITERATIONS if clusters > 1 else 1):
        sums = np.zeros(centroids.shape)
        for rows in _blocks(sample, store.dim + clusters):
            check()
            vectors = store.whole(rows, COARSE)
            labels, _ = _nearest(vectors.astype(np.float32), centroids)
            by_label = np.argsort(labels, kind="stable")
            there, starts = np.unique(labels[by_label], return_index=True)
            sums[there] += np.add.reduceat(vectors[by_label], starts, axis=0)
        for label, total in enumerate(sums):
            if length := math.sqrt(math.fsum((total * total).tolist())):  # a cluster that nobody is nearest to stays as it is
                centroids[label] = np.rint(total * (COARSE / length))
    return centroids


def assign(store: Store, centroids: Centroids, check: Callable[[], None]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For each row its centroid, the first of those that are equally near, and how near: cosine times COARSE squared."""
    labels, nearness = np.empty(len(store), np.int32), np.empty(len(store), np.float32)
    for rows in _blocks(np.arange(len(store)), store.dim + len(centroids)):
        check()
        labels[rows], nearness[rows] = _nearest(store.whole(rows, COARSE).astype(np.float32), centroids)
    return labels, nearness


def chance(ordinals: Array, seed: int) -> NDArray[np.uint64]:
    """A number for each ordinal that looks random (SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = ordinals.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def _nearest(vectors: NDArray[np.float32], centroids: Centroids) -> tuple[Array, NDArray[np.float32]]:
    products = vectors @ centroids.T
    labels = products.argmax(axis=1)
    return labels, products[np.arange(len(labels)), labels]


def _blocks(rows: Array, width: int) -> Iterator[Array]:
    step = max(1, _BLOCK // width)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
