"""`dedup.perceptual`: of images whose perceptual hashes are near, one is kept."""

from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pairsift.stages.base import Columns, ConfigError, Finder, Scratch
from pairsift.stages.dedup.clusters import Clusters, keepers
from pairsift.stages.dedup.hamming import Array, Hashes, distances, near_pairs
from pairsift.stages.dedup.hashes import read_hashes
from pairsift.stages.fates import Status


class Perceptual(Finder):
    """Keep one row of each cluster of images whose hashes (`image.phash`) differ in few bits.

    Rows within `distance` bits of each other are in one cluster, and so are rows that are joined by a chain of such pairs:
    clusters are connected components. All pairs within the distance are found, none is guessed; equal hashes are compared
    once. A row without a hash is nobody's duplicate.

    Of a cluster the first in the input stays, or with `best` the one with the largest value: the product of these columns, such
    as `[original_width, original_height]` for the area; null and not-a-number last, then in the order of the input. Rows of an
    earlier generation come first, and hang together only by rows that are no younger: new input takes nothing out of what was
    kept before.

    The score in fates is the distance to the row that is kept: in a chain it may be larger than `distance`.
    """

    status: ClassVar[Status] = Status.DUPLICATE

    by: str = Field("phash", description="column of hashes in hex digits, all of one length")
    distance: int = Field(31, ge=0, lt=256, description="bits that may differ; of 256 up to 40, of 64 up to 8 is sensible")
    best: list[str] = Field([], description="columns of numbers whose product is compared; default: the first row is kept")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys((self.by, *self.best)))

    def find(self, rows: pa.RecordBatchReader, scratch: Scratch) -> pa.Table:
        """Memory: about 120 bytes a row that has a hash, and up to 500 MB for pairs at work."""
        given = _Rows.read(rows, self.by, self.best)
        distinct, nodes = _distinct(given.hashes)
        born = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(born, nodes, given.generations)
        clusters = Clusters(born)
        for left, right in near_pairs(distinct, self.distance, scratch.check):
            clusters.join(left, right)
        rank = np.empty(len(nodes), np.int64)
        rank[np.lexsort((given.ordinals, -given.values, given.generations))] = np.arange(len(nodes))
        kept = keepers(clusters, nodes, given.generations, rank)
        gone = np.flatnonzero(kept != np.arange(len(kept)))
        far = distances(given.hashes[gone], given.hashes[kept[gone]])
        found = {"ordinal": given.ordinals[gone], "duplicate_of": given.ordinals[kept[gone]], "score": far.astype(np.float64)}
        return pa.table(found)

    def label(self) -> str:
        best = f", best {' x '.join(self.best)}" if self.best else ""
        return self.name or f"{self.by} within {self.distance} bits{best}"


class _Rows:
    """The rows that have a hash, as arrays."""

    def __init__(self, ordinals: Array, generations: Array, hashes: Hashes, values: NDArray[np.float64]) -> None:
        self.ordinals, self.generations, self.hashes, self.values = ordinals, generations, hashes, values

    @classmethod
    def read(cls, rows: pa.RecordBatchReader, by: str, best: list[str]) -> "_Rows":
        """Raises ConfigError for a hash that is none."""
        parts = []
        for batch in rows:
            known = batch.filter(batch[by].is_valid())
            if not len(known):
                continue
            values = np.ones(len(known))
            for name in best:
                values *= np.asarray(known[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
            values[np.isnan(values)] = -np.inf
            integers = (known[name].to_numpy(zero_copy_only=False).astype(np.int64) for name in ("ordinal", "generation"))
            parts.append((*integers, read_hashes(known[by], by), values if best else np.zeros(len(known))))
        if len({part[2].shape[1] for part in parts}) > 1:
            raise ConfigError(f"dedup.perceptual: column {by!r} holds hashes of different lengths")
        if not parts:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 1), np.uint64), np.zeros(0))
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def _distinct(hashes: Hashes) -> tuple[Hashes, Array]:
    """The different hashes, and for each row its own among them."""
    if not len(hashes):
        return hashes, np.zeros(0, np.int64)
    whole = np.ascontiguousarray(hashes).view(f"V{hashes.shape[1] * 8}").ravel()
    _, first, nodes = np.unique(whole, return_index=True, return_inverse=True)
    return hashes[first], nodes.reshape(-1)
