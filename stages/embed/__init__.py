"""`embed`: image and text vectors of a dual encoder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.embed import checkpoint, embedded
from pairsift.stages.embed.checkpoint import Checkpoint
from pairsift.stages.fates import Failure

if TYPE_CHECKING:
    from pairsift.stages.embed.encoder import Encoder, Floats

__all__ = ["Embed"]

_EMBEDDED = "embedded"
_DETAILS = {
    Failure.IMAGE_UNREADABLE: "the bytes are not an image that OpenCV decodes",
    Failure.NOT_FINITE: "the model gave values that are not finite; with dtype float16, try bfloat16 or float32",
}


class Embed(Stage):
    """Image and text embeddings of a CLIP checkpoint: unit vectors in float16.

    Reads the stored bytes, as every consumer of the shards will: EXIF orientation is not applied, alpha is dropped.

    - `image_embedding`, `text_embedding`: `fixed_size_list<float16>[dim]`, length 1, dim from the model's configuration.
    - A caption that is null or blank has a null `text_embedding`.
    - A row whose image cannot be decoded fails with `image_unreadable`, one for which the model gives a value that is not
      finite with `not_finite`; both vectors are null.

    On one kind of device the results are a pure function of the batch. On another they differ by rounding.
    """

    # What these two stand for is in `identity()`: a folder may be moved, and a name may come to stand for other weights.
    model: Annotated[str, OPERATIONAL] = Field(
        "openai/clip-vit-base-patch32",
        min_length=1,
        description="a CLIP checkpoint: a name on the hub, or a folder; or `embedded`: a small demonstration model",
    )
    revision: Annotated[str | None, OPERATIONAL] = Field(
        None, description="branch, tag or commit on the hub; default: its main branch"
    )
    device: Annotated[str, OPERATIONAL] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (cuda where resources.gpus > 0, else cpu), cpu, cuda, cuda:N",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the model: auto (float16 on cuda, float32 on cpu), float32, bfloat16, float16"
    )
    batch_size: Annotated[int, OPERATIONAL] = Field(64, gt=0, description="images, or texts, per forward pass of the model")

    # The commit that `identity` answered with: it travels with the pickled stage, so that every worker loads that one.
    _commit: str | None = PrivateAttr(None)

    def reads(self) -> Columns:
        return (schema.IMAGE.name, schema.CAPTION.name)

    def writes(self) -> pa.Schema:
        """Raises ConfigError where the model's configuration cannot be had."""
        dim = embedded.dimension() if self._is_embedded else self._locate().dim
        return pa.schema([schema.embedding(name, dim) for name in ("image_embedding", "text_embedding")])

    def check(self) -> None:
        if not self._is_embedded:
            self._locate()
            return
        if self.revision is not None:
            raise ConfigError(f"embed: revision {self.revision!r} is for names on the hub, not for `model: embedded`")
        if self.dtype not in ("auto", "float32"):
            raise ConfigError(f"embed: dtype {self.dtype!r} cannot be had of `model: embedded`, which runs in float32 only")
        embedded.require_packages()

    def identity(self) -> str:
        if self._is_embedded:
            embedded.require_packages()
            return embedded.identity()
        found = self._locate()
        self._commit = found.commit
        return f"{checkpoint.identity(found)} {self._number_format()}"

    def notice(self) -> str | None:
        return embedded.NOTICE if self._is_embedded else None

    @contextmanager
    def open(self) -> Iterator[Transform]:
        import torch

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would ignore resources.cpus
        torch.set_num_threads(max(1, int(self.resources.cpus)))
        encoder = self._load_encoder()
        yield lambda table: _embed(table, encoder, self.batch_size)

    @property
    def _is_embedded(self) -> bool:
        return self.model == _EMBEDDED

    def _locate(self) -> Checkpoint:
        return checkpoint.locate(self.model, self._commit or self.revision)

    def _load_encoder(self) -> "Encoder":
        device = self._available_device()
        if self._is_embedded:
            return embedded.EmbeddedEncoder(device)
        from pairsift.stages.embed.clip import ClipEncoder

        folder: Path = checkpoint.fetch(self.model, self._locate())
        return ClipEncoder(folder, device, self._number_format())

    def _number_format(self) -> str:
        """Part of the identity: vectors in float16 and in float32 are not the same to the last bit."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self._device() == "cpu" else "float16"

    def _device(self) -> str:
        """Only the config decides; what a worker happens to have does not."""
        if self.device != "auto":
            return self.device
        return "cuda" if self.resources.gpus > 0 else "cpu"

    def _available_device(self) -> str:
        import torch

        device = self._device()
        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"embed: device {device} was asked for, but torch sees no GPU on this worker; set `device: cpu`")
        return device


def _embed(table: pa.Table, encoder: "Encoder", batch_size: int) -> pa.Table:
    images, readable = _embed_images(table.column(schema.IMAGE.name), encoder, batch_size)
    texts, said = _embed_texts(table.column(schema.CAPTION.name), readable, encoder, batch_size)
    # A NaN must not get into the ledger: SQL sorts it last, so it would pass every threshold.
    finite = np.asarray(np.isfinite(np.hstack([images, texts])).all(axis=1), dtype=np.bool_)
    failures = [_failure(ok, fine) for ok, fine in zip(readable, finite, strict=True)]
    details = [None if failure is None else _DETAILS[failure] for failure in failures]
    return pa.table(
        {
            "image_embedding": _to_column(images, readable & finite),
            "text_embedding": _to_column(texts, said & finite),
            schema.FAILURE.name: pa.array([failure and failure.value for failure in failures], type=schema.FAILURE.type),
            schema.FAILURE_DETAIL.name: pa.array(details, type=schema.FAILURE_DETAIL.type),
        }
    )


def _failure(readable: bool, finite: bool) -> Failure | None:
    return Failure.IMAGE_UNREADABLE if not readable else None if finite else Failure.NOT_FINITE


def _embed_images(column: pa.ChunkedArray, encoder: "Encoder", batch_size: int) -> "tuple[Floats, NDArray[np.bool_]]":
    """((rows, dim) vectors, which rows have one). Only one batch of prepared images is held at a time."""
    vectors = np.zeros((len(column), encoder.dim), dtype=np.float32)
    readable = np.zeros(len(column), dtype=bool)
    rows: list[int] = []
    prepared: list[Floats] = []
    for row, scalar in enumerate(column):
        image = _decode(scalar.as_buffer())
        if image is not None:
            readable[row] = True
            rows.append(row)
            prepared.append(encoder.prepare(image))
        if prepared and (len(prepared) == batch_size or row == len(column) - 1):
            vectors[rows] = encoder.encode_images(prepared)
            rows, prepared = [], []
    return vectors, readable


def _embed_texts(
    column: pa.ChunkedArray, wanted: NDArray[np.bool_], encoder: "Encoder", batch_size: int
) -> "tuple[Floats, NDArray[np.bool_]]":
    """((rows, dim) vectors, which rows have one)."""
    vectors = np.zeros((len(column), encoder.dim), dtype=np.float32)
    captions: Sequence[str | None] = column.to_pylist()
    said = wanted & np.array([caption is not None and bool(caption.strip()) for caption in captions], dtype=bool)
    rows = np.flatnonzero(said)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        vectors[batch] = encoder.encode_texts([captions[row] or "" for row in batch])
    return vectors, said


def _decode(encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
    """RGB (height, width, 3), or None for what is not an image."""
    if encoded is None or encoded.size == 0:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        return None
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _to_column(vectors: "Floats", present: NDArray[np.bool_]) -> pa.Array:
    values = pa.array(vectors.astype(np.float16).ravel(), type=pa.float16())
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~present))
