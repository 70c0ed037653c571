"""Columns of other files for the same rows, found by a key that both have: scores that lie apart from the images.

DataComp's pools are the case in point: scores in metadata/*.parquet, images in tars, and a uid in both.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats.columns import Pick, free_name, plain_type
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.sources import list_sources

_TEXT = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


class Join(NamedTuple):
    """What is joined to a reader's rows: `picks` of the files `uris`, by the column `key` there and `ours` here."""

    uris: tuple[str, ...]
    key: str
    ours: str
    picks: tuple[Pick, ...]

    @property
    def fields(self) -> list[pa.Field]:
        return [ours for _, ours in self.picks]


def join(path: str | Sequence[str], key: str, extra: Sequence[str] | None, given: pa.Schema) -> Join:
    """What there is to join to rows with the columns `given`, by the first file's footer: `extra`, or all that they lack.

    Raises:
        ConfigError: where there are no such files, or no such columns in them or in the rows.
    """
    uris = tuple(source.uri for source in list_sources(path, ["parquet", "pq"]))
    found = parquet_columns(uris[0])
    ours = "source_key" if key == "key" else key
    if ours not in given.names:
        raise ConfigError(f"input.metadata_key: the rows have no column {ours!r}; they have {', '.join(given.names)}")
    for name in (key, *(extra or ())):
        if name not in found.names:
            raise ConfigError(f"{uris[0]} has no column {name!r}; its columns are {', '.join(found.names)}")
    if plain_type(found.field(key).type) not in _TEXT:
        raise ConfigError(f"{uris[0]}: the column {key!r} is {found.field(key).type}, not text")
    taken = {name.lower() for name in given.names}
    picks = []
    for name in extra if extra is not None else [n for n in found.names if n not in given.names and n not in ("text", key)]:
        ours_name = free_name(name, taken)
        taken.add(ours_name.lower())
        picks.append(Pick(name, pa.field(ours_name, plain_type(found.field(name).type))))
    return Join(uris, key, ours, tuple(picks))


def joined(table: pa.Table, what: Join | None) -> pa.Table:
    """The rows with the joined columns; null where no file has the key, and from the first row where several have it."""
    if what is not None:
        for field, column in zip(what.fields, _lookup(what).find(table[what.ours].combine_chunks()), strict=True):
            table = table.append_column(field, column)
    return table


class _Lookup:
    """All rows of the files, held in memory: 24 bytes for each, and its columns."""

    def __init__(self, what: Join) -> None:
        names = [what.key, *(theirs for theirs, _ in what.picks)]
        parts: list[pa.Table] = []
        keys: list[NDArray[np.uint64]] = []
        for uri in what.uris:
            for table in parquet_tables(uri, names, frozenset({what.key})):
                keys.append(_hashed(table[what.key].combine_chunks()))
                arrays = [table[theirs].cast(ours.type) for theirs, ours in what.picks]
                parts.append(pa.table(arrays, schema=pa.schema([ours for _, ours in what.picks])))
        self._rows = pa.concat_tables(parts).combine_chunks()
        both = np.concatenate(keys)
        self._order = np.lexsort((both[:, 1], both[:, 0]))  # stable: of equal keys, the first row comes first
        self._high, self._low = both[self._order, 0], both[self._order, 1]

    def find(self, keys: pa.Array) -> list[pa.Array]:
        wanted = _hashed(keys)
        places = np.searchsorted(self._high, wanted[:, 0])
        while True:  # two keys share 64 bits once in a blue moon
            inside = np.minimum(places, len(self._high) - 1)
            further = (places < len(self._high)) & (self._high[inside] == wanted[:, 0]) & (self._low[inside] < wanted[:, 1])
            if not further.any():
                break
            places = places + further
        there = (self._high[inside] == wanted[:, 0]) & (self._low[inside] == wanted[:, 1]) & (places < len(self._high))
        there &= keys.is_valid().to_numpy(zero_copy_only=False)
        indices = pa.array(self._order[inside], mask=~there)
        return [column.combine_chunks() for column in self._rows.take(indices).columns]


@lru_cache(maxsize=1)  # a reader is pickled with whatever it holds; this must not travel
def _lookup(what: Join) -> _Lookup:
    return _Lookup(what)


def _hashed(keys: pa.Array) -> NDArray[np.uint64]:
    """128 bits of each key, as two columns: its value where it is 32 hex digits, as DataComp's uids are, else an MD5."""
    texts: list[Any] = keys.to_pylist()
    return np.frombuffer(b"".join(map(_bits, texts)), ">u8").reshape(-1, 2).astype(np.uint64)


def _bits(text: str | None) -> bytes:
    try:
        value = bytes.fromhex(text or "")
    except ValueError:
        value = b""
    return value if len(value) == 16 else hashlib.md5((text or "").encode(), usedforsecurity=False).digest()
