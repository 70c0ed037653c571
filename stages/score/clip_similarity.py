"""`score.clip_similarity`: how well an image and its caption agree."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import Columns, ConfigError, Stage, Transform
from pairsift.stages.score.vectors import matrix

__all__ = ["ClipSimilarity"]


class ClipSimilarity(Stage):
    """Cosine similarity of image and caption, from the unit vectors that `embed` wrote.

    - `clip_similarity`: float32, -1 to 1, the dot product in float32; null where either vector is null.

    The rule is CLIPScore's cosine without its scaling (https://arxiv.org/abs/2104.08718), as LAION-400M used it with
    CLIP ViT-B/32 and a threshold of 0.3 (https://arxiv.org/abs/2111.02114). Thresholds belong to one model each.
    """

    image_embedding: str = Field("image_embedding", min_length=1, description="column with the images' unit vectors")
    text_embedding: str = Field("text_embedding", min_length=1, description="column with the captions' unit vectors")

    def reads(self) -> Columns:
        return (self.image_embedding, self.text_embedding)

    def writes(self) -> pa.Schema:
        return pa.schema([schema.CLIP_SIMILARITY])

    def check(self) -> None:
        if self.image_embedding == self.text_embedding:
            raise ConfigError(
                f"score.clip_similarity: image_embedding and text_embedding are both {self.image_embedding!r}; name two columns"
            )

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._score

    def _score(self, table: pa.Table) -> pa.Table:
        """Raises ValueError where the two columns are not vectors of one length."""
        images, texts = table.column(self.image_embedding), table.column(self.text_embedding)
        vectors = [matrix(table.column(name), "score.clip_similarity", name) for name in self.reads()]
        if images.type.list_size != texts.type.list_size:
            raise ValueError(
                f"score.clip_similarity: {self.image_embedding!r} has {images.type.list_size} dimensions and "
                f"{self.text_embedding!r} {texts.type.list_size}: they are not of one model"
            )
        cosine = np.einsum("ij,ij->i", *vectors)
        missing = pc.or_(pc.is_null(images), pc.is_null(texts)).to_numpy()
        scores = pa.array(np.clip(cosine, -1, 1), type=schema.CLIP_SIMILARITY.type, mask=missing)
        return pa.table([scores], schema=self.writes())
