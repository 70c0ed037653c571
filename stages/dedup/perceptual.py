"""`dedup.perceptual`: of images whose perceptual hashes are near, one is kept."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pairsift.stages.base import Columns, Finder, Scratch
from pairsift.stages.dedup import perceptual_tasks
from pairsift.stages.dedup.clusters import Clusters, keepers
from pairsift.stages.dedup.hamming import distances, near_pairs
from pairsift.stages.dedup.hashes import HashedRows, distinct
from pairsift.stages.exchange import Tasks, Written
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
    dealable: ClassVar[bool] = True

    by: str = Field("phash", description="column of hashes in hex digits, all of one length")
    distance: int = Field(31, ge=0, lt=256, description="bits that may differ; of 256 up to 40, of 64 up to 8 is sensible")
    best: list[str] = Field([], description="columns of numbers whose product is compared; default: the first row is kept")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys((self.by, *self.best)))

    def find(self, rows: pa.RecordBatchReader, scratch: Scratch) -> pa.Table:
        """Memory: about 120 bytes a row that has a hash, and up to 500 MB for pairs at work."""
        given = HashedRows.read(rows, self.by, self.best)
        hashes, nodes = distinct(given.hashes)
        born = np.full(len(hashes), np.iinfo(np.int64).max)
        np.minimum.at(born, nodes, given.generations)
        clusters = Clusters(born)
        for left, right in near_pairs(hashes, self.distance, scratch.check):
            clusters.join(left, right)
        rank = np.empty(len(nodes), np.int64)
        rank[np.lexsort((given.ordinals, -given.values, given.generations))] = np.arange(len(nodes))
        kept = keepers(clusters, nodes, given.generations, rank)
        gone = np.flatnonzero(kept != np.arange(len(kept)))
        far = distances(given.hashes[gone], given.hashes[kept[gone]])
        found = {"ordinal": given.ordinals[gone], "duplicate_of": given.ordinals[kept[gone]], "score": far.astype(np.float64)}
        return pa.table(found)

    def deal(self, tasks: Tasks) -> Iterable[Written | None]:
        return perceptual_tasks.deal(self.by, self.best, self.distance, tasks)

    def label(self) -> str:
        best = f", best {' x '.join(self.best)}" if self.best else ""
        return self.name or f"{self.by} within {self.distance} bits{best}"
