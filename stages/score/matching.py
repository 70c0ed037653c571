"""`score.matching`: how likely a caption belongs to its image, by a model that reads the two together."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.fates import Failure
from pairsift.stages.score.blip import Blip
from pairsift.stages.storage import absolute

_KIND = "BlipForImageTextRetrieval"
_FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")  # what results depend on


class Matching(Stage):
    """The probability that a caption describes its image, by BLIP's matching head.

    - `match_probability`: float32, 0 to 1; null where there is no image, or no caption but white space. CapFilt's filter keeps
      0.5 and above (https://arxiv.org/abs/2201.12086, section 3.3).

    Unlike a similarity of two vectors, it needs a pass of the model for each pair: a caption attends to the image's patches. An
    image that comes several times in a batch is passed through its own tower once. Pixels are those of the checkpoint's own
    processor; EXIF orientation is not applied, alpha is dropped. Captions are cut at `max_tokens`. An image that cannot be
    decoded fails with `image_unreadable`, a pair for which the model gives no number with `not_finite`.

    It runs on a GPU with `resources: {gpus: 1}`. bfloat16 moves probabilities by a hundredth or so, and is twice as fast on a
    CPU that has instructions for it.
    """

    batch_rows: ClassVar[int] = 32

    model: Annotated[str, OPERATIONAL] = Field(
        min_length=1, description="folder of a BlipForImageTextRetrieval, as transformers saves it"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="number format of the model: float32, bfloat16, float16"
    )
    max_tokens: int = Field(35, gt=2, description="longer captions are cut, as BLIP's own code does; 512 is the most")

    @field_validator("model")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        config = Path(self.model) / "config.json"
        if not config.is_file():
            raise ConfigError(
                f"score.matching: model: {self.model} is no folder with a config.json: fetch the checkpoint first"
            )
        kinds = json.loads(config.read_bytes()).get("architectures") or []
        if _KIND not in kinds:
            raise ConfigError(f"score.matching: model: {self.model} is {', '.join(kinds) or 'unnamed'}, not a {_KIND}")

    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(path for pattern in _FILES for path in Path(self.model).glob(pattern)):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def reads(self) -> Columns:
        return (schema.IMAGE.name, schema.CAPTION.name)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("match_probability", pa.float32())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        cuda, threads = self.resources.gpus > 0, max(1, int(self.resources.cpus))
        model = Blip(Path(self.model), self.max_tokens, self.dtype, cuda=cuda, threads=threads)

        def transform(batch: pa.Table) -> pa.Table:
            images, captions = batch[schema.IMAGE.name].to_pylist(), batch[schema.CAPTION.name].to_pylist()
            pixels = {data: model.read(data) for data in dict.fromkeys(images) if data is not None}
            rows = [n for n, text in enumerate(captions) if pixels.get(images[n]) is not None and (text or "").strip()]
            found = np.full(len(captions), np.nan, np.float32)
            if rows:
                used = list(dict.fromkeys(images[n] for n in rows))
                tensors = [tensor for tensor in map(pixels.get, used) if tensor is not None]
                found[rows] = model.match(tensors, [used.index(images[n]) for n in rows], [captions[n] for n in rows])
            failures: list[str | None] = [None] * len(captions)
            for n in np.flatnonzero(np.isnan(found)):
                if n in rows:
                    failures[n] = Failure.NOT_FINITE.value
                elif images[n] is not None and pixels[images[n]] is None:
                    failures[n] = Failure.IMAGE_UNREADABLE.value
            return pa.table(
                [pa.array(found, mask=np.isnan(found)), pa.array(failures, schema.FAILURE.type)],
                schema=pa.schema([*self.writes(), schema.FAILURE]),
            )

        yield transform
