"""Perceptual hashes as columns have them, hex digits, and as numbers."""

import numpy as np
import pyarrow as pa

from pairsift.stages.base import ConfigError
from pairsift.stages.dedup.hamming import Hashes

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
