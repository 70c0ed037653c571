"""`dedup.against`: how near a row is to a reference set: evaluation sets (decontamination), or what earlier runs have kept."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.dedup.hashes import read_hashes
from pairsift.stages.dedup.references import References, Wanted, identity_of, read_references, sources_of
from pairsift.stages.dedup.vectors import FINE, whole
from pairsift.stages.pixels import hashing
from pairsift.stages.storage import absolute

_WANTED: dict[str, Wanted] = {
    "exact": "values",
    "text": "values",
    "ngrams": "values",
    "bits": "hashes",
    "cosine": "vectors",
}
_PRODUCTS = 1 << 22  # of a block of comparisons
_ROWS = 4096  # references that are compared at a time

Answer = tuple[list[float | None], list[str | None]]
Look = Callable[[pa.ChunkedArray], Answer]


class Against(Stage):
    """Compare a column with the same column of a reference set. `filter.where` decides by what this writes.

    - `reference_nearness`: float32; what it is depends on `match`. Null where the row's value is null.
    - `reference_name`: string, the reference that is nearest, the first of those equally near: `FILE:ROW`, or the image's
      file. Null where nothing is near at all: for `exact`, `text` and `ngrams` where the nearness is 0.

    | match | compares | nearness |
    |---|---|---|
    | `exact` | values of any one type: url, sha256, uid | 1 or 0 |
    | `text` | captions in lower case, without punctuation, each run of white space as one space (NFKC) | 1 or 0 |
    | `ngrams` | the same, by runs of `words` words; shorter ones as they are | share of the row's runs that a reference has |
    | `bits` | perceptual hashes, in hex digits | bits that differ: 0 is the nearest |
    | `cosine` | vectors, as lists of floats | cosine, -1 to 1 |

    `reference` is a Parquet file with the column, a folder or a glob of such files, the output folder of an earlier run, a .txt
    file of captions or URLs, a .npy file of vectors, or images: of these pHash (`bits`) or sha256 (`exact`) is taken here.

    Every reference is compared with every row, but for `exact`, `text` and `ngrams`. Each worker holds the references.
    """

    batch_rows: ClassVar[int] = 2048

    reference: Annotated[str | list[str], OPERATIONAL] = Field(
        description="file, folder, glob or output folder, or a list of these; its contents are part of the results"
    )
    by: str = Field(description="column of the rows, such as sha256, phash, image_embedding, caption")
    match: Literal["exact", "text", "ngrams", "bits", "cosine"] = Field("exact", description="what is compared: see above")
    reference_column: str | None = Field(None, description="the column in the reference's Parquet files; default: `by`")
    words: int = Field(13, gt=0, description="length of the runs that `ngrams` compares")
    bits: Literal[64, 256] = Field(256, description="length of the hashes that are made of reference images")

    @field_validator("reference")
    @classmethod
    def _for_every_worker(cls, value: str | list[str]) -> str | list[str]:
        return absolute(value) if isinstance(value, str) else [absolute(path) for path in value]

    def check(self) -> None:
        sources_of(self.reference)

    def reads(self) -> Columns:
        return (self.by,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("reference_nearness", pa.float32()), pa.field("reference_name", pa.string())])

    def identity(self) -> str:
        made_here = f" {hashing.LIBRARY}" if self.match == "bits" else ""
        return identity_of(sources_of(self.reference)) + made_here

    @contextmanager
    def open(self) -> Iterator[Transform]:
        column = self.reference_column or self.by
        references = read_references(sources_of(self.reference), column, _WANTED[self.match], self.bits)
        look = {
            "exact": lambda: _values(references, lambda value: [value]),
            "text": lambda: _values(references, lambda value: [plain(value)]),
            "ngrams": lambda: _values(references, lambda value: ngrams(value, self.words)),
            "bits": lambda: _nearest_hash(references, self.by),
            "cosine": lambda: _nearest_vector(references, self.by),
        }[self.match]()

        def transform(batch: pa.Table) -> pa.Table:
            nearness, names = look(batch[self.by])
            return pa.table([pa.array(nearness, pa.float32()), pa.array(names, pa.string())], schema=self.writes())

        yield transform


class _Letters(dict[int, int]):
    """For `str.translate`: letters, marks and numbers as they are, anything else as a space."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_LETTERS = _Letters()


def plain(text: str) -> str:
    """NFKC, lower case, without punctuation and symbols, white space as single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_LETTERS).split())


def ngrams(text: str, words: int) -> list[str]:
    """Runs of so many neighbouring words of the plain text; a shorter text is one run. Nothing of a text without words."""
    split = plain(text).split()
    if not split:
        return []
    return [" ".join(split[start : start + words]) for start in range(max(1, len(split) - words + 1))]


def _values(references: References, parts: Callable[[Any], list[Any]]) -> Look:
    """The share of a value's parts that references have, and the first reference that has one of them."""
    known: dict[bytes, int] = {}
    for number, value in enumerate(references.values.to_pylist()):
        for part in parts(value):
            known.setdefault(_mark(part), number)

    def look(column: pa.ChunkedArray) -> Answer:
        nearness: list[float | None] = []
        names: list[str | None] = []
        for value in column.to_pylist():
            marks = [] if value is None else [_mark(part) for part in parts(value)]
            found = [known[mark] for mark in marks if mark in known]
            nearness.append(None if value is None else len(found) / max(1, len(marks)))
            names.append(references.names[min(found)] if found else None)
        return nearness, names

    return look


def _mark(value: object) -> bytes:
    """16 bytes: of a billion values, none would be taken for another."""
    return blake2b(f"{type(value).__name__} {value}".encode(), digest_size=16).digest()


def _nearest_hash(references: References, by: str) -> Look:
    known = np.ascontiguousarray(read_hashes(references.values, by).T)  # words first

    def look(column: pa.ChunkedArray) -> Answer:
        there = np.flatnonzero(column.is_valid().to_numpy())
        if not len(there):
            return [None] * len(column), [None] * len(column)
        hashes = read_hashes(column.drop_null().combine_chunks(), by)
        if hashes.shape[1] != len(known):
            raise ConfigError(f"{by!r} has {64 * hashes.shape[1]} bits, the reference {64 * len(known)}")
        best, nearest = np.full(len(hashes), 64 * len(known) + 1), np.zeros(len(hashes), np.int64)
        for start in range(0, known.shape[1], _ROWS):
            for rows in _pieces(len(hashes), min(_ROWS, known.shape[1])):
                part = known[:, start : start + _ROWS]
                far = sum(
                    np.bitwise_count(hashes[rows, word, None] ^ part[word]).astype(np.uint16) for word in range(len(known))
                )
                _keep_better(best, nearest, rows, far.argmin(axis=1), far.min(axis=1), start)
        return _scattered(len(column), there, best.astype(np.float64), nearest, references.names)

    return look


def _nearest_vector(references: References, by: str) -> Look:
    lists = np.asarray(references.values.flatten().to_numpy(zero_copy_only=False), np.float64)
    vectors = lists.reshape(len(references.values), -1)
    usable = np.flatnonzero(_usable(vectors))
    names = [references.names[n] for n in usable]
    known = whole(vectors[usable], FINE)

    def look(column: pa.ChunkedArray) -> Answer:
        if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != known.shape[1]:
            raise ConfigError(f"{by!r} is {column.type}, the reference's vectors have {known.shape[1]} numbers")
        valid = np.flatnonzero(column.is_valid().to_numpy())
        flat = column.drop_null().combine_chunks().flatten().to_numpy(zero_copy_only=False)
        given = np.asarray(flat, np.float64).reshape(len(valid), -1)
        good = _usable(given)
        there, rows_of = valid[good], whole(given[good], FINE)
        best, nearest = np.full(len(there), np.inf), np.zeros(len(there), np.int64)
        for start in range(0, len(known), _ROWS):
            for rows in _pieces(len(there), min(_ROWS, len(known))):
                products = -(rows_of[rows] @ known[start : start + _ROWS].T)
                _keep_better(best, nearest, rows, products.argmin(axis=1), products.min(axis=1), start)
        return _scattered(len(column), there, -best / (FINE * FINE), nearest, names)

    return look


def _usable(vectors: Any) -> Any:
    """Which rows have a direction."""
    return np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)


def _pieces(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _PRODUCTS // width)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _keep_better(best: Any, nearest: Any, rows: slice, places: Any, values: Any, start: int) -> None:
    better = values < best[rows]
    best[rows][better] = values[better]
    nearest[rows][better] = places[better] + start


def _scattered(rows: int, there: Any, values: Any, nearest: Any, names: list[str]) -> Answer:
    nearness: list[float | None] = [None] * rows
    named: list[str | None] = [None] * rows
    for row, value, place in zip(there.tolist(), values.tolist(), nearest.tolist(), strict=True):
        nearness[row], named[row] = value, names[place]
    return nearness, named
