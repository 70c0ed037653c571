"""`dedup.semantic`: of images or captions that mean nearly the same, one is kept: SemDeDup."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pairsift.stages.base import Columns, Finder, Scratch
from pairsift.stages.dedup import semantic_tasks
from pairsift.stages.dedup.kmeans import assign, chance, fit
from pairsift.stages.dedup.vectors import FINE, Array, Store
from pairsift.stages.exchange import Tasks, Written
from pairsift.stages.fates import Status

_BLOCK = 4096  # rows compared with as many others at a time
_NONE = pa.table({"ordinal": np.zeros(0, np.int64), "duplicate_of": np.zeros(0, np.int64), "score": np.zeros(0)})
_ALONE = 20_000  # up to so many rows all are compared with all


class Semantic(Finder):
    """Drop rows whose embedding has a cosine above `similarity` with an earlier one of its cluster.

    SemDeDup's rule (https://arxiv.org/abs/2303.09540, and its authors' code): vectors are put into `clusters` by k-means; those
    of a cluster are put in order, and a row goes if any that stands before it is too similar, whether that one stays or not.
    `keep` is the order: `hard` begins far from the centroid, as the paper does, `easy` near to it, `random` with a hash. The
    paper's epsilon is 1 - `similarity`. `duplicate_of` is the row at the end of the chain of such neighbours, the score the
    largest cosine.

    Pairs in different clusters are not seen. With `clusters: 1` all are compared with all. k-means is fitted to the first
    generation of input alone, and rows of an earlier generation stand first: new input takes nothing out of what was kept.

    The answer does not depend on the order of rows, on threads or on the machine: vectors are brought to unit length and
    rounded to 2^-25, so that cosines are exact sums. A row without a vector is nobody's duplicate.
    """

    status: ClassVar[Status] = Status.DUPLICATE
    dealable: ClassVar[bool] = True

    by: str = Field("image_embedding", description="column of vectors, fixed_size_list of floats; their length is nothing")
    similarity: float = Field(0.95, ge=-1, le=1, description="cosine above which a row goes; the paper's 1 - epsilon")
    clusters: int | None = Field(
        None, gt=0, description="how many; default: 1 for up to 20,000 rows in the first generation, else their square root"
    )
    keep: Literal["hard", "easy", "random"] = Field("hard", description="which of similar rows stays: see above")
    seed: int = Field(0, ge=0, description="another seed begins k-means with other rows, and shuffles `random` otherwise")

    def reads(self) -> Columns:
        return (self.by,)

    def find(self, rows: pa.RecordBatchReader, scratch: Scratch) -> pa.Table:
        """Memory: 40 bytes a row, and a cluster's vectors in float64 if they fit into half of what there is; the vectors
        themselves lie in a file."""
        store = Store.read(rows, self.by, scratch.folder, scratch.check)
        if not len(store):
            return _NONE
        first = np.flatnonzero(store.generations == store.generations.min())
        centroids = fit(store, first, self.clusters_of(len(first)), self.seed, scratch.check)
        return self.gone(store, *assign(store, centroids, scratch.check), scratch)

    def deal(self, tasks: Tasks) -> Iterable[Written | None]:
        return semantic_tasks.deal(self, tasks)

    def clusters_of(self, rows: int) -> int:
        """How many there are for so many rows of the first generation."""
        return min(self.clusters or (1 if rows <= _ALONE else round(rows**0.5)), rows)

    def gone(self, store: Store, labels: NDArray[np.int32], nearness: NDArray[np.float32], scratch: Scratch) -> pa.Table:
        """The rows of whole clusters that go. `labels`, `nearness`: each row's cluster, and how near it is to its centroid."""
        going: list[Array] = []
        keepers: list[Array] = []
        scores: list[NDArray[np.float64]] = []
        for members in self._members(store, labels, nearness):
            nearest, cosines = _nearest_before(store, members, scratch)
            gone = np.flatnonzero(cosines > self.similarity)
            going.append(members[gone])
            keepers.append(members[_ends(nearest, gone)[gone]])
            scores.append(cosines[gone])
        none = np.zeros(0, np.int64)
        ordinals, duplicate_of = (store.ordinals[np.concatenate([none, *parts])] for parts in (going, keepers))
        return pa.table({"ordinal": ordinals, "duplicate_of": duplicate_of, "score": np.concatenate([np.zeros(0), *scores])})

    def _members(self, store: Store, labels: NDArray[np.int32], nearness: NDArray[np.float32]) -> Iterator[Array]:
        """The rows of each cluster of two and more, in the order in which they are looked at."""
        places: dict[str, NDArray[Any]] = {"hard": nearness, "easy": -nearness, "random": chance(store.ordinals, self.seed)}
        order = np.lexsort((store.ordinals, places[self.keep], store.generations, labels))
        ends = np.flatnonzero(np.diff(labels[order], append=-1)) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if end - start > 1:
                yield order[start:end]

    def label(self) -> str:
        return self.name or f"{self.by} above {self.similarity:g}"


def _nearest_before(store: Store, members: Array, scratch: Scratch) -> tuple[Array, NDArray[np.float64]]:
    """For each member the place of the most similar one that stands before it, the first of these, and their cosine: -2 for
    the first member."""
    nearest, best = np.zeros(len(members), np.int64), np.full(len(members), -2 * FINE * FINE)
    held = store.whole(members, FINE) if len(members) * store.dim * 16 <= scratch.memory else None

    def block(start: int) -> NDArray[np.float64]:
        part = slice(start, start + _BLOCK)
        return store.whole(members[part], FINE) if held is None else held[part]

    for start in range(0, len(members), _BLOCK):
        here = block(start)
        rows = np.arange(start, start + len(here))
        for other in range(0, start + 1, _BLOCK):
            scratch.check()
            there = here if other == start else block(other)
            products = here @ there.T
            if other == start:
                np.copyto(products, -2 * FINE * FINE, where=~np.tri(len(here), k=-1, dtype=bool))
            at = products.argmax(axis=1)
            found = products[np.arange(len(here)), at]
            better = found > best[rows]
            best[rows[better]], nearest[rows[better]] = found[better], at[better] + other
    return nearest, best / (FINE * FINE)


def _ends(nearest: Array, gone: Array) -> Array:
    """Where the chains of rows that go end: at rows that stay. A row's nearest stands before it."""
    ends = np.arange(len(nearest))
    ends[gone] = nearest[gone]
    while not np.array_equal(further := ends[ends], ends):
        ends = further
    return ends
