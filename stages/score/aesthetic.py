"""`score.aesthetic`: how much people would like an image, by a head of LAION's shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform
from pairsift.stages.score import heads
from pairsift.stages.storage import absolute


class Aesthetic(Stage):
    """What an aesthetic head says of an image's unit vector; no model runs.

    - `aesthetic`: float32, about 1 to 10; null where the vector is null.

    LAION publishes heads for CLIP ViT-B/32, B/16 and L/14 (linear, https://github.com/LAION-AI/aesthetic-predictor) and one of
    five layers for L/14 (https://github.com/christophschuhmann/improved-aesthetic-predictor); LAION-Aesthetics cut at 4.5 to
    6.5 of these. A head belongs to one model.
    """

    batch_rows: ClassVar[int] = 8192

    weights: Annotated[str, OPERATIONAL] = Field(description="the head: a .pth, .safetensors or .npz file")
    column: str = Field("image_embedding", min_length=1, description="column with the images' unit vectors")

    @field_validator("weights")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        heads.load(self.weights, "score.aesthetic")

    def identity(self) -> str:
        return heads.identity(self.weights)

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("aesthetic", pa.float32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        layers = heads.load(self.weights, "score.aesthetic")

        def transform(batch: pa.Table) -> pa.Table:
            where = ("score.aesthetic", self.column)
            scores, missing = heads.outputs(layers, batch[self.column], "none", where)
            return pa.table([pa.array(scores, pa.float32(), mask=missing)], schema=self.writes())

        yield transform
