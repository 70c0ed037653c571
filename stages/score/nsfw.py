"""`score.nsfw`: how likely an image is not safe for work, by a head of LAION's shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform
from pairsift.stages.score import heads
from pairsift.stages.storage import absolute


class Nsfw(Stage):
    """What a safety head says of an image's unit vector; no model runs.

    - `punsafe`: float32, 0 to 1 with `output: sigmoid`; null where the vector is null. The name is that of LAION's datasets.

    The shape is that of LAION's CLIP-based NSFW detectors: linear layers with ReLU between them and one number at the end
    (https://github.com/LAION-AI/CLIP-based-NSFW-Detector). A head that starts with a normalisation has it folded into its first
    layer by whoever converts it. A head belongs to one model.
    """

    batch_rows: ClassVar[int] = 8192

    weights: Annotated[str, OPERATIONAL] = Field(description="the head: a .pth, .safetensors or .npz file")
    column: str = Field("image_embedding", min_length=1, description="column with the images' unit vectors")
    between: Literal["none", "relu"] = Field("relu", description="activation between two layers: none, relu")
    output: Literal["sigmoid", "identity"] = Field(
        "sigmoid", description="sigmoid: the last number is a logit; identity: it is the score itself"
    )

    @field_validator("weights")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        heads.load(self.weights, "score.nsfw")

    def identity(self) -> str:
        return heads.identity(self.weights)

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("punsafe", pa.float32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        layers = heads.load(self.weights, "score.nsfw")

        def transform(batch: pa.Table) -> pa.Table:
            where = ("score.nsfw", self.column)
            scores, missing = heads.outputs(layers, batch[self.column], self.between, where)
            if self.output == "sigmoid":
                scores = np.reciprocal(1 + np.exp(-np.clip(scores, -80, 80)), dtype=np.float32)
            return pa.table([pa.array(scores, pa.float32(), mask=missing)], schema=self.writes())

        yield transform
