"""`score.nearest`: which of some centroids an image's vector is nearest to, and whether that one is on a list."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.score.centroids import Nearest, load_centroids
from pairsift.stages.score.vectors import matrix
from pairsift.stages.storage import absolute


class NearestCentroid(Stage):
    """The nearest of the centroids of a clustering, by inner product, as in DataComp's image_based; no model runs.

    - `cluster`: int32, the row of the nearest centroid in the file, from 0; of equally near ones the first. Null where the
      vector is null.
    - `cluster_similarity`: float32, the inner product with it; a cosine where centroids have length 1.
    - `cluster_listed` (with `listed`): bool, whether that centroid is on the list; false, never null, where the vector is null.

    Inner products are computed in float32 with centroids as they are, which for k-means' are shorter than 1
    (https://github.com/mlfoundations/datacomp, baselines/apply_filter.py, `get_centroid_ids_gpu`). A CPU and a GPU may differ
    where two centroids are equally near but for rounding. With `resources: {gpus: 1}` they are computed there.

    `python -m pairsift.stages.score.nearest_list` makes the list: the centroids that are nearest to any of other vectors, such
    as ImageNet's images.
    """

    batch_rows: ClassVar[int] = 8192

    centroids: Annotated[str, OPERATIONAL] = Field(description="an .npy file of (centroids, dimensions), of the column's model")
    listed: Annotated[str | None, OPERATIONAL] = Field(None, description="file of centroids' rows, one a line, from 0")
    column: str = Field("image_embedding", min_length=1, description="column with the images' unit vectors")

    @field_validator("centroids", "listed")
    @classmethod
    def _for_every_worker(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    def check(self) -> None:
        self._listed(len(load_centroids(self.centroids, "score.nearest")))

    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path in filter(None, (self.centroids, self.listed)):
            digest.update(os.path.getsize(path).to_bytes(8, "little"))  # so that one file's end is not the other's beginning
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        fields = [pa.field("cluster", pa.int32()), pa.field("cluster_similarity", pa.float32())]
        return pa.schema([*fields, pa.field("cluster_listed", pa.bool_())] if self.listed else fields)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        centroids = load_centroids(self.centroids, "score.nearest")
        nearest = Nearest(centroids, cuda=self.resources.gpus > 0, threads=max(1, int(self.resources.cpus)))
        on_list = self._listed(len(centroids))
        dim = centroids.shape[1]

        def transform(batch: pa.Table) -> pa.Table:
            vectors = matrix(batch[self.column], "score.nearest", self.column)
            if vectors.shape[1] != dim:
                raise ValueError(
                    f"score.nearest: {self.column!r} has {vectors.shape[1]} dimensions, the centroids have {dim}: "
                    "they are not of one model"
                )
            missing: Any = pc.is_null(batch[self.column]).to_numpy()
            vectors[missing] = 0  # a null's buffer may hold anything
            places, products = nearest(vectors)
            arrays = [pa.array(places, mask=missing), pa.array(products, mask=missing)]
            if self.listed:
                arrays.append(pa.array(on_list[places] & ~missing))
            return pa.table(arrays, schema=self.writes())

        yield transform

    def _listed(self, centroids: int) -> NDArray[np.bool_]:
        """For each centroid, whether it is on the list. Raises ConfigError."""
        found = np.zeros(centroids, np.bool_)
        if self.listed is None:
            return found
        try:
            with open(self.listed, encoding="utf-8") as file:
                entries = [line.strip() for line in file if line.strip()]
        except (OSError, ValueError) as error:
            raise ConfigError(f"score.nearest: {self.listed} cannot be read: {error}") from None
        for entry in entries:
            if not (entry.isascii() and entry.isdecimal()) or int(entry) >= centroids:
                raise ConfigError(
                    f"score.nearest: {self.listed}: {entry[:80]!r} is no row of the {centroids} centroids, from 0"
                )
            found[int(entry)] = True
        return found
