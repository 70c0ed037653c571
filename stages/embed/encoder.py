"""What a dual encoder offers to `embed`, whatever is inside."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Prepared = NDArray[Any]  # one image as the network wants it, or as it can be made so on the device: every one of one shape
Tokens = tuple[int, ...]
BATCH = 64  # images, or texts, per forward pass, where nobody says otherwise


class Encoder(Protocol):
    """Images and texts in, unit vectors of one space out. The same input gives the same output.

    `decode`, `prepare`, `stack` and `tokenize` are called from other threads than the `encode_…`, so that they cost nothing
    while the model runs.
    """

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    def decode(self, encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
        """An image's RGB pixels, (height, width, 3), or (frames, height, width, 3); None for what is not an image. May be
        called from several threads at once, as `prepare` may."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """What `decode` gave, made small."""

    def stack(self, prepared: Sequence[Prepared]) -> Any:
        """A batch of prepared images in one piece of memory, ready to go to the device."""

    def encode_images(self, batch: Any) -> Floats:
        """(n, dim), rows of length 1, for what `stack` gave. At least one image."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's tokens, cut at the model's length, without padding. No text is blank."""

    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        """(n, dim), rows of length 1. At least one text."""


def unit(vectors: Floats) -> Floats:
    """The rows scaled to length 1; a row of zeros stays as it is, and one with a value that is not finite becomes all NaN."""
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    clean = np.where(finite, vectors, np.float32(0))
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    return np.asarray(np.where(finite, clean / np.maximum(lengths, 1e-12), np.nan), dtype=np.float32)


def text_vectors(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """(n, dim) unit vectors, of texts that are not blank."""
    tokens = encoder.tokenize(texts)
    parts = [encoder.encode_texts(tokens[start : start + BATCH]) for start in range(0, len(tokens), BATCH)]
    return np.concatenate([np.zeros((0, encoder.dim), np.float32), *parts])
