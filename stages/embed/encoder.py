"""What a dual encoder offers to `embed`, whatever is inside."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Encoder(Protocol):
    """Images and texts in, unit vectors of one space out. The same input gives the same output."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    def prepare(self, image: NDArray[np.uint8]) -> Floats:
        """One RGB image (height, width, 3) as the network wants it: (3, H, W). Small, so that a batch of them fits."""

    def encode_images(self, prepared: Sequence[Floats]) -> Floats:
        """(n, dim), rows of length 1. At least one image."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """(n, dim), rows of length 1. At least one text; none is empty."""


def unit(vectors: Floats) -> Floats:
    """The rows scaled to length 1; a row of zeros stays as it is, and one with a value that is not finite becomes all NaN."""
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    clean = np.where(finite, vectors, np.float32(0))
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    return np.asarray(np.where(finite, clean / np.maximum(lengths, 1e-12), np.nan), dtype=np.float32)
