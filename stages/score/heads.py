"""Small networks on top of an embedding: linear layers one after another, as LAION publishes them. Never imports torch at the
top: only a pickled file needs it, and is read with `weights_only`, so that no code in it runs.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.score.vectors import matrix

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Between = Literal["none", "relu"]
_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")


class Layer(NamedTuple):
    """values @ weight.T + bias."""

    weight: Floats  # (out, in)
    bias: Floats  # (out,)


def load(path: str, use: str) -> list[Layer]:
    """The layers of a file: tensors `weight` and `bias`, or `….N.weight` and `….N.bias`, which follow each other by N.

    Raises ConfigError where there is no such file, or where its layers do not follow each other to a single number.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{use}: weights: there is no {path}")
    if file.suffix not in _SUFFIXES:
        raise ConfigError(f"{use}: weights: {path} is not one of {', '.join(_SUFFIXES)}")
    tensors = _tensors(file)
    names = sorted((name for name in tensors if name.endswith("weight")), key=_place)
    try:
        layers = [Layer(tensors[name], tensors[f"{name.removesuffix('weight')}bias"]) for name in names]
    except KeyError as error:
        raise ConfigError(f"{use}: weights: {path} has no tensor {error}") from error
    _check(layers, f"{use}: weights: {path}")
    return layers


def identity(path: str) -> str:
    """A hash of the file."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()


def apply(layers: Sequence[Layer], vectors: Floats, between: Between) -> Floats:
    """(n,) outputs of (n, dim) vectors; `between` two layers, the activation."""
    for number, (weight, bias) in enumerate(layers):
        if number and between == "relu":
            vectors = np.maximum(vectors, 0)
        vectors = vectors @ weight.T + bias
    return vectors[:, 0]


def outputs(layers: Sequence[Layer], column: pa.ChunkedArray, between: Between, where: tuple[str, str]) -> tuple[Floats, Flags]:
    """(outputs, which are missing), both (n,), of a column of n vectors, brought to length 1; null vectors are missing.

    `where`: the stage's `use`, and the column's name. Raises ValueError where the head is of another model than the column.
    """
    use, name = where
    vectors = matrix(column, use, name)
    wanted = layers[0].weight.shape[1]
    if vectors.shape[1] != wanted:
        raise ValueError(
            f"{use}: {name!r} has {vectors.shape[1]} dimensions, the head takes {wanted}: they are not of one model"
        )
    missing = np.asarray(pc.is_null(column).to_numpy(), np.bool_)
    vectors[missing] = 0  # a null's buffer may hold anything
    return apply(layers, unit(vectors), between), missing


def unit(vectors: Floats) -> Floats:
    """Rows of length 1 again: float16 columns have lost some of it."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _tensors(file: Path) -> Mapping[str, Floats]:
    found: dict[str, Any]
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        found = load_file(file)
    elif file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
    else:
        import torch

        loaded = torch.load(file, map_location="cpu", weights_only=True)
        found = {name: value.float().numpy() for name, value in loaded.items()}
    return {name: np.asarray(value, dtype=np.float32) for name, value in found.items()}


def _place(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _check(layers: Sequence[Layer], where: str) -> None:
    if not layers:
        raise ConfigError(f"{where} has no tensor whose name ends in weight")
    for layer in layers:
        if layer.weight.ndim != 2 or layer.bias.shape != layer.weight.shape[:1]:
            raise ConfigError(
                f"{where}: a layer is {layer.weight.shape} with a bias of {layer.bias.shape}, not (out, in) and (out,)"
            )
    for before, after in pairwise(layers):
        if before.weight.shape[0] != after.weight.shape[1]:
            raise ConfigError(f"{where}: a layer gives {before.weight.shape[0]} values, the next takes {after.weight.shape[1]}")
    if layers[-1].weight.shape[0] != 1:
        raise ConfigError(f"{where}: the last layer gives {layers[-1].weight.shape[0]} values, not one")
