"""Which of some centroids a vector is nearest to, by inner product. torch is imported by who asks, never on import."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError

Floats = NDArray[np.float32]
_SCORES = 1 << 24  # so many inner products are held at a time: 64 MiB


def load_centroids(path: str, use: str) -> Floats:
    """(centroids, dim), in float32. A file of float32 is mapped, so that all workers of a machine share one copy.

    Raises ConfigError, in the name of `use`, where the file is no .npy of such a shape, or holds what is not finite.
    """
    try:
        # "c": what is written stays in memory. Nothing is, but torch takes no array that cannot be written.
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{use}: {path} cannot be read as an .npy file: {error}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not found.size or found.dtype.kind != "f":
        shape = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise ConfigError(f"{use}: {path} is {shape}; floats of (number of vectors, dimensions) are right")
    if not np.isfinite(found).all():
        raise ConfigError(f"{use}: {path} holds values that are not finite")
    return np.asarray(found, dtype=np.float32)


class Nearest:
    """Vectors against centroids, in float32, on a CPU or on CUDA. Every pair is computed; nothing is approximated."""

    def __init__(self, centroids: Floats, *, cuda: bool, threads: int) -> None:
        import torch

        self._torch = torch
        self._device = "cuda" if cuda else "cpu"
        self._block = max(1, _SCORES // len(centroids))
        if not cuda:
            torch.set_num_threads(threads)
        self._across = self._tensor(centroids).T

    def __call__(self, vectors: Floats) -> tuple[NDArray[np.int32], Floats]:
        """(n,) places of the nearest centroids and (n,) inner products with them; of equal ones the first."""
        with self._torch.inference_mode():
            blocks = [
                (self._tensor(vectors[start : start + self._block]) @ self._across).max(dim=1)
                for start in range(0, len(vectors), self._block)
            ]
            places = np.concatenate([block.indices.cpu().numpy() for block in blocks])
            products = np.concatenate([block.values.cpu().numpy() for block in blocks])
        return places.astype(np.int32), products

    def _tensor(self, values: Floats) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
