"""Makes the list of `score.nearest`: `python -m pairsift.stages.score.nearest_list --centroids FILE --vectors FILE --out FILE`.

The centroids that are nearest to any of the vectors: DataComp's image_based takes the images of ImageNet-1k
(https://arxiv.org/abs/2304.14108, section 3.2).
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pairsift.stages.base import ConfigError
from pairsift.stages.score.centroids import Floats, Nearest, load_centroids

_ROWS = 1 << 14  # vectors that are in memory at a time


def nearest_list(centroids: Floats, files: Iterable[str], *, cuda: bool) -> list[int]:
    """The rows of the centroids, in ascending order. Raises ConfigError for a file that is no .npy of their dimensions."""
    nearest = Nearest(centroids, cuda=cuda, threads=os.cpu_count() or 1)
    hit = np.zeros(len(centroids), np.bool_)
    for path in files:
        vectors = load_centroids(path, "nearest_list")
        if vectors.shape[1] != centroids.shape[1]:
            raise ConfigError(f"nearest_list: {path} has {vectors.shape[1]} dimensions, the centroids {centroids.shape[1]}")
        for start in range(0, len(vectors), _ROWS):
            hit[nearest(vectors[start : start + _ROWS])[0]] = True
    return [int(row) for row in np.flatnonzero(hit)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the list of score.nearest.")
    parser.add_argument("--centroids", required=True, help=".npy file of (centroids, dimensions)")
    parser.add_argument("--vectors", action="append", required=True, help=".npy file of (vectors, dimensions); may be repeated")
    parser.add_argument("--out", type=Path, default=Path("listed.txt"))
    parser.add_argument("--cuda", action="store_true", help="compute on a GPU")
    options = parser.parse_args(arguments)

    centroids = load_centroids(options.centroids, "nearest_list")
    found = nearest_list(centroids, options.vectors, cuda=options.cuda)
    options.out.write_text("".join(f"{row}\n" for row in found), encoding="utf-8")


if __name__ == "__main__":
    main()
