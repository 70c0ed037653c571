"""`embed`: image and text vectors of a dual encoder, or of an encoder of one side alone."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.embed import checkpoint, embedded, text_tower
from pairsift.stages.embed.checkpoint import Checkpoint
from pairsift.stages.embed.feed import Feed, Work
from pairsift.stages.fates import Failure

if TYPE_CHECKING:
    from pairsift.stages.embed.encoder import Encoder, Floats

__all__ = ["Embed"]

_EMBEDDED, _EMBEDDED_IMAGES = "embedded", "embedded-images"
_IMAGES, _TEXTS = "image_embedding", "text_embedding"
_DETAILS = {
    Failure.IMAGE_UNREADABLE: "the bytes are not an image that OpenCV decodes",
    Failure.NOT_FINITE: "the model gave values that are not finite; with dtype float16, try bfloat16 or float32",
}


class Embed(Stage):
    """Image and text embeddings of a dual encoder (CLIP, SigLIP and their kin): unit vectors in float16.

    With `only`, an encoder of that side alone will do: of images DINOv2 and its kin, of texts a `text_model` with
    `model: null`. Two such have no space in common; `score.asif` compares them through pairs that are known.

    Reads the stored bytes, as every consumer of the shards will: EXIF orientation is not applied, alpha is dropped.

    - `image_embedding`, `text_embedding`: `fixed_size_list<float16>[dim]`, length 1, dim from the model's configuration.
    - A caption that is null or blank has a null `text_embedding`.
    - A row whose image cannot be decoded fails with `image_unreadable`, one for which the model gives a value that is not
      finite with `not_finite`; both vectors are null.

    On one kind of device the results are a pure function of the batch. On another they differ by rounding.
    """

    version: ClassVar[int] = 3
    batch_rows: ClassVar[int] = 4096  # the whole unit: the model is kept busy across batches, not across sub-batches

    # What these two stand for is in `identity()`: a folder may be moved, and a name may come to stand for other weights.
    model: Annotated[str | None, OPERATIONAL] = Field(
        "openai/clip-vit-base-patch32",
        min_length=1,
        description="a dual encoder's checkpoint, or with `only: images` an image encoder's: a name on the hub, or a folder; "
        "or `embedded`: a small demonstration model; `embedded-images`: its image network alone; null: `text_model` alone",
    )
    revision: Annotated[str | None, OPERATIONAL] = Field(
        None, description="branch, tag or commit on the hub; default: its main branch"
    )
    text_model: Annotated[str | None, OPERATIONAL] = Field(
        None,
        min_length=1,
        description="a text tower of its own, in sentence-transformers' layout, such as multilingual CLIP's: a name on the "
        "hub, or a folder; the images' vectors come of `model`",
    )
    text_revision: Annotated[str | None, OPERATIONAL] = Field(
        None, description="branch, tag or commit of `text_model` on the hub; default: its main branch"
    )
    device: Annotated[str, OPERATIONAL] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (cuda where resources.gpus > 0, else cpu), cpu, cuda, cuda:N",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the model: auto (float16 on cuda, bfloat16 on cpu), float32, bfloat16, float16"
    )
    only: Literal["images", "texts"] | None = Field(
        None, description="images or texts: one side only, with its column; default: both"
    )
    batch_size: Annotated[int, OPERATIONAL] = Field(64, gt=0, description="images, or texts, per forward pass of the model")

    # The commit that `identity` answered with: it travels with the pickled stage, so that every worker loads that one.
    _commit: str | None = PrivateAttr(None)
    _text_commit: str | None = PrivateAttr(None)

    def reads(self) -> Columns:
        wanted = {"images": (schema.IMAGE.name,), "texts": (schema.CAPTION.name,)}
        return wanted.get(self.only or "", (schema.IMAGE.name, schema.CAPTION.name))

    def writes(self) -> pa.Schema:
        """Raises ConfigError where the model's configuration cannot be had."""
        dim = self._dimension()
        names = {"images": (_IMAGES,), "texts": (_TEXTS,)}.get(self.only or "", (_IMAGES, _TEXTS))
        return pa.schema([schema.embedding(name, dim) for name in names])

    def check(self) -> None:
        if self._is_embedded:
            self._check_embedded()
            return
        images = None if self.model is None else self._locate(self.model)
        if images is not None and images.images_only and self.only != "images":
            raise ConfigError(f"embed: model {self.model!r} is an encoder of images alone; add `only: images`")
        self._check_text_model(images)

    def identity(self) -> str:
        if self._is_embedded:
            embedded.require_packages()
            return embedded.identity() if self.model == _EMBEDDED else embedded.identity_of_images()
        parts = []
        if self.model is not None:
            images = self._locate(self.model)
            self._commit = images.commit
            parts.append(checkpoint.identity(images))
        if self.text_model is not None:
            tower = self._locate_text(self.text_model)
            self._text_commit = tower.commit
            parts.append(tower.identity)
        return " ".join([*parts, self._number_format()])

    def notice(self) -> str | None:
        return embedded.NOTICE if self.model == _EMBEDDED else None

    @contextmanager
    def open(self) -> Iterator[Transform]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would ignore resources.cpus
        encoder = self.load_encoder()
        cores = max(1, int(self.resources.cpus))
        # On a CPU the model has all the cores, and one thread more prepares; where it runs on a GPU, the cores all prepare.
        feed = Feed(encoder, self.batch_size, cores, 1 if self._device() == "cpu" else cores)

        async def embed(table: pa.Table) -> pa.Table:
            images = None if self.only == "texts" else table.column(schema.IMAGE.name)
            captions = None if self.only == "images" else table.column(schema.CAPTION.name).to_pylist()
            return _as_table(await feed.run(Work(images, captions, encoder.dim)), self.writes())

        with closing(feed):
            yield embed

    @property
    def _is_embedded(self) -> bool:
        return self.model in (_EMBEDDED, _EMBEDDED_IMAGES)

    def _dimension(self) -> int:
        if self._is_embedded:
            return embedded.dimension() if self.model == _EMBEDDED else embedded.POOLED
        return self._locate_text(self._needed_text_model()).dim if self.model is None else self._locate(self.model).dim

    def _locate(self, model: str) -> Checkpoint:
        return checkpoint.locate(model, self._commit or self.revision)

    def _locate_text(self, model: str) -> text_tower.Files:
        return text_tower.locate(model, self._text_commit or self.text_revision)

    def load_encoder(self) -> "Encoder":
        """The model, on the stage's device. Raises ConfigError where it, or the device, cannot be had."""
        device = self._available_device()
        if self._is_embedded:
            return embedded.EmbeddedEncoder(device) if self.model == _EMBEDDED else embedded.PooledEncoder(device)
        encoder: Encoder | None = None
        if self.model is not None:
            from pairsift.stages.embed.variants import encoder_of

            folder: Path = checkpoint.fetch(self.model, self._locate(self.model))
            encoder = encoder_of(folder, device, self._number_format())
            if self.text_model is None:
                return encoder
        from pairsift.stages.embed.text_tower import TextTower, TwoTowers

        model = self.text_model or self._needed_text_model()
        tower = text_tower.fetch(model, self._locate_text(model))
        return TwoTowers(encoder, TextTower(tower, device, self._number_format()))

    def _needed_text_model(self) -> str:
        if self.text_model is None or self.only != "texts":
            raise ConfigError("embed: `model: null` leaves a text tower alone: it needs `text_model` and `only: texts`")
        return self.text_model

    def _check_embedded(self) -> None:
        given = f"`model: {self.model}`"
        if self.text_model is not None:
            raise ConfigError(f"embed: text_model goes with a checkpoint, not with {given}")
        if self.revision is not None:
            raise ConfigError(f"embed: revision {self.revision!r} is for names on the hub, not for {given}")
        if self.dtype not in ("auto", "float32"):
            raise ConfigError(f"embed: dtype {self.dtype!r} cannot be had of {given}, which runs in float32 only")
        if self.model == _EMBEDDED_IMAGES and self.only != "images":
            raise ConfigError(f"embed: {given} is an encoder of images alone; add `only: images`")
        embedded.require_packages()

    def _check_text_model(self, images: Checkpoint | None) -> None:
        if images is None:
            self._locate_text(self._needed_text_model())
        elif self.text_model is None:
            if self.text_revision is not None:
                raise ConfigError(f"embed: text_revision {self.text_revision!r} is of a text_model, and there is none")
        elif (found := self._locate_text(self.text_model).dim) != images.dim:
            raise ConfigError(
                f"embed: text_model {self.text_model!r} gives vectors of {found}, model {self.model!r} of {images.dim}: they "
                "are not towers of one space"
            )

    def _number_format(self) -> str:
        """Part of the identity: vectors in float16 and in float32 are not the same to the last bit."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self._device() == "cpu" else "float16"

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


def _as_table(work: Work, columns: pa.Schema) -> pa.Table:
    # A NaN must not get into the ledger: SQL sorts it last, so it would pass every threshold.
    finite = np.asarray(np.isfinite(np.hstack([work.image_vectors, work.text_vectors])).all(axis=1), dtype=np.bool_)
    failures = [_failure(ok, fine) for ok, fine in zip(work.readable.tolist(), finite.tolist(), strict=True)]
    details = [None if failure is None else _DETAILS[failure] for failure in failures]
    vectors = {_IMAGES: (work.image_vectors, work.readable & finite), _TEXTS: (work.text_vectors, work.said & finite)}
    return pa.table(
        {
            **{name: _to_column(*vectors[name]) for name in columns.names},
            schema.FAILURE.name: pa.array([failure and failure.value for failure in failures], type=schema.FAILURE.type),
            schema.FAILURE_DETAIL.name: pa.array(details, type=schema.FAILURE_DETAIL.type),
        }
    )


def _failure(readable: bool, finite: bool) -> Failure | None:
    return Failure.IMAGE_UNREADABLE if not readable else None if finite else Failure.NOT_FINITE


def _to_column(vectors: "Floats", present: NDArray[np.bool_]) -> pa.Array:
    values = pa.array(vectors.astype(np.float16).ravel(), type=pa.float16())
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~present))
