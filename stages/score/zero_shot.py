"""`score.zero_shot`: which of some labels fits an image best, from vectors that are there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.score import heads
from pairsift.stages.score.heads import unit
from pairsift.stages.score.vectors import matrix
from pairsift.stages.storage import absolute

Floats = NDArray[np.float32]


class ZeroShot(Stage):
    """Probabilities of labels, from an image's unit vector and those of the labels; no model runs.

    - `label`: string, the likeliest; null where the vector is null.
    - `label_probability`: float32, 0 to 1: its softmax over all labels.
    - `label_probabilities`: `fixed_size_list<float32>[labels]`, in the file's order; they add up to 1.

    The way is CLIP's: softmax of `scale` times the cosines, a label's vector being the mean over its templates
    (https://arxiv.org/abs/2103.00020, section 3.1). `python -m pairsift.stages.embed.label_vectors` makes the file.
    """

    batch_rows: ClassVar[int] = 8192

    labels: Annotated[str, OPERATIONAL] = Field(
        description="an .npz file with `names` (n strings) and `vectors` (n by dim), of the model that made the column"
    )
    column: str = Field("image_embedding", min_length=1, description="column with the images' unit vectors")
    scale: float = Field(
        100.0, gt=0, description="what cosines are multiplied with: the model's exp(logit_scale), CLIP's is 100"
    )

    @field_validator("labels")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        self._load()

    def identity(self) -> str:
        return heads.identity(self.labels)

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        names, _ = self._load()
        return pa.schema(
            [
                pa.field("label", pa.string()),
                pa.field("label_probability", pa.float32()),
                pa.field("label_probabilities", pa.list_(pa.float32(), len(names))),
            ]
        )

    @contextmanager
    def open(self) -> Iterator[Transform]:
        names, vectors = self._load()
        columns = self.writes()
        yield lambda batch: self._score(batch, names, vectors, columns)

    def _score(self, batch: pa.Table, names: list[str], labels: Floats, columns: pa.Schema) -> pa.Table:
        images = matrix(batch[self.column], "score.zero_shot", self.column)
        if images.shape[1] != labels.shape[1]:
            raise ValueError(
                f"score.zero_shot: {self.column!r} has {images.shape[1]} dimensions, the labels have {labels.shape[1]}: "
                "they are not of one model"
            )
        missing = pc.is_null(batch[self.column]).to_numpy()
        images[missing] = 0  # a null's buffer may hold anything
        probabilities = _softmax(np.float32(self.scale) * (unit(images) @ labels.T))
        best = probabilities.argmax(axis=1)
        flat = pa.array(probabilities.ravel(), pa.float32())
        arrays = [
            pa.array([names[label] for label in best], pa.string(), mask=missing),
            pa.array(probabilities.max(axis=1), pa.float32(), mask=missing),
            pa.FixedSizeListArray.from_arrays(flat, len(names), mask=pa.array(missing)),
        ]
        return pa.table(arrays, schema=columns)

    def _load(self) -> tuple[list[str], Floats]:
        """Raises ConfigError where the file is not as the parameter's description says."""
        where = f"score.zero_shot: labels: {self.labels}"
        if not Path(self.labels).is_file():
            raise ConfigError(f"score.zero_shot: labels: there is no {self.labels}")
        try:
            with np.load(self.labels, allow_pickle=False) as arrays:
                names, vectors = [str(name) for name in arrays["names"]], np.asarray(arrays["vectors"], dtype=np.float32)
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise ConfigError(f"{where} is not an .npz file with `names` and `vectors`") from error
        if not names or vectors.ndim != 2 or len(vectors) != len(names) or not np.isfinite(vectors).all():
            raise ConfigError(
                f"{where}: {len(names)} names and vectors of shape {vectors.shape}; a finite one for each is right"
            )
        return names, unit(vectors)


def _softmax(logits: NDArray[np.floating]) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
