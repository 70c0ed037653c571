"""`score.asif`: similarity of image and text from vectors of two encoders that never met, through pairs that are known."""

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
_AT_ONCE = 1 << 23  # similarities held at a time: 32 MB for each side


class Asif(Stage):
    """Likeness of image and text by what they are like: pairs whose image is like this image, and whose text like this text.

    - `asif_similarity`: float32, 0 to 1; null where one of the vectors is null.

    An image stands for its cosines with the images of n anchor pairs, a text for its cosines with their texts; the largest `k`
    are kept, raised to the power `p`, and brought to length 1. The score is the product of the two. Nothing is trained
    (https://arxiv.org/abs/2210.01738: k 800 and p 8 with 1.6 million anchors). The wide vectors are not stored.
    """

    batch_rows: ClassVar[int] = 8192

    anchors: Annotated[str, OPERATIONAL] = Field(
        description="an .npz file with `images` (n by the image column's length) and `texts` (n by the text column's): vectors "
        "of pairs that belong together, by the encoders that made the columns"
    )
    image: str = Field("image_embedding", min_length=1, description="column with the images' vectors")
    text: str = Field("text_embedding", min_length=1, description="column with the texts' vectors")
    k: int = Field(100, gt=0, description="anchors that a vector stands for; more than there are: all")
    p: float = Field(4.0, gt=0, description="power of the cosines: the larger, the more the nearest anchors count")

    @field_validator("anchors")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        self._load()

    def identity(self) -> str:
        return heads.identity(self.anchors)

    def reads(self) -> Columns:
        return (self.image, self.text)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("asif_similarity", pa.float32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        images, texts = self._load()
        yield lambda batch: self._score(batch, images, texts)

    def _score(self, batch: pa.Table, anchor_images: Floats, anchor_texts: Floats) -> pa.Table:
        """Raises ValueError where a column's vectors are not as long as the anchors'."""
        sides = []
        for name, anchors in ((self.image, anchor_images), (self.text, anchor_texts)):
            vectors = matrix(batch[name], "score.asif", name)
            if vectors.shape[1] != anchors.shape[1]:
                raise ValueError(
                    f"score.asif: {name!r} has {vectors.shape[1]} dimensions, the anchors have {anchors.shape[1]}: "
                    "they are not of one encoder"
                )
            vectors[pc.is_null(batch[name]).to_numpy()] = 0  # a null's buffer may hold anything
            sides.append((unit(vectors), anchors))
        rows = max(1, _AT_ONCE // len(anchor_images))
        scores = [
            np.einsum("ij,ij->i", *(relative(v[start : start + rows], a, self.k, self.p) for v, a in sides))
            for start in range(0, len(batch), rows)
        ]
        missing = pc.or_(pc.is_null(batch[self.image]), pc.is_null(batch[self.text])).to_numpy()
        both = np.concatenate([np.zeros(0, np.float32), *scores])
        return pa.table([pa.array(np.clip(both, 0, 1), pa.float32(), mask=missing)], schema=self.writes())

    def _load(self) -> tuple[Floats, Floats]:
        """Unit vectors. Raises ConfigError where the file is not as the parameter's description says."""
        where = f"score.asif: anchors: {self.anchors}"
        if not Path(self.anchors).is_file():
            raise ConfigError(f"score.asif: anchors: there is no {self.anchors}")
        try:
            with np.load(self.anchors, allow_pickle=False) as arrays:
                images, texts = (np.asarray(arrays[name], dtype=np.float32) for name in ("images", "texts"))
        except (ValueError, KeyError, OSError, EOFError, TypeError) as error:
            raise ConfigError(f"{where} is not an .npz file with `images` and `texts`") from error
        fine = images.ndim == texts.ndim == 2 and len(images) == len(texts) > 0
        if not fine or not np.isfinite(images).all() or not np.isfinite(texts).all():
            raise ConfigError(
                f"{where}: images of shape {images.shape}, texts of {texts.shape}; finite rows, as many of each, are right"
            )
        return unit(images), unit(texts)


def relative(vectors: Floats, anchors: Floats, k: int, p: float) -> Floats:
    """(rows, anchors): what unit vectors are like, in terms of the anchors; rows of length 1, or zero."""
    cosines = np.maximum(vectors @ anchors.T, 0)
    if k < cosines.shape[1]:
        least = np.partition(cosines, -k, axis=1)[:, -k, None]
        cosines = np.where(cosines >= least, cosines, 0)
    return unit(np.asarray(cosines**p, dtype=np.float32))
