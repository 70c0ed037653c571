"""Perceptual hashes as columns have them, hex digits, and as numbers."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.dedup.hamming import Array, Hashes

_DIGITS = 16  # of a word of 64 bits
_HEX = frozenset("0123456789abcdefABCDEF")


def read_hashes(column: pa.Array, name: str) -> Hashes:
    """(rows, words) of a column without nulls. Raises ConfigError where it does not hold hex digits, all of one length, which
    is a multiple of 16."""
    texts = column.to_pylist()
    digits = len(texts[0]) if isinstance(texts[0], str) else 0
    if not digits or digits % _DIGITS:
        raise ConfigError(f"column {name!r} holds {texts[0]!r}: a hash has 16, 32, 48 or 64 hex digits")
    wrong = next((text for text in texts if len(text) != digits or not set(text) <= _HEX), None)
    if wrong is not None:
        raise ConfigError(f"column {name!r} holds {wrong!r}, and others of {digits} hex digits")
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64).reshape(len(texts), -1)


class HashedRows:
    """The rows that have a hash, as arrays."""

    def __init__(self, ordinals: Array, generations: Array, hashes: Hashes, values: NDArray[np.float64]) -> None:
        self.ordinals, self.generations, self.hashes, self.values = ordinals, generations, hashes, values

    @classmethod
    def read(cls, rows: Iterable[pa.RecordBatch], by: str, best: list[str]) -> "HashedRows":
        """Raises ConfigError for a hash that is none."""
        parts = []
        for batch in rows:
            known = batch.filter(batch[by].is_valid())
            if not len(known):
                continue
            values = np.ones(len(known))
            for name in best:
                values *= np.asarray(known[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
            values[np.isnan(values)] = -np.inf
            integers = (known[name].to_numpy(zero_copy_only=False).astype(np.int64) for name in ("ordinal", "generation"))
            parts.append((*integers, read_hashes(known[by], by), values if best else np.zeros(len(known))))
        if len({part[2].shape[1] for part in parts}) > 1:
            raise ConfigError(f"column {by!r} holds hashes of different lengths")
        if not parts:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 1), np.uint64), np.zeros(0))
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def distinct(hashes: Hashes) -> tuple[Hashes, Array]:
    """The different hashes, and for each row its own among them."""
    if not len(hashes):
        return hashes, np.zeros(0, np.int64)
    whole = np.ascontiguousarray(hashes).view(f"V{hashes.shape[1] * 8}").ravel()
    _, first, nodes = np.unique(whole, return_index=True, return_inverse=True)
    return hashes[first], nodes.reshape(-1)
