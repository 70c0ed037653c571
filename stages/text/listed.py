"""`text.listed`: whether a column's value is on a list."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.storage import absolute
from pairsift.stages.text.lists import list_identity, read_list

_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64}
_BYTES = 16  # of the hash that an entry is kept as: of a billion entries, none would be taken for another


class Listed(Stage):
    """Whether a value is on a list of URLs, domains or hashes. `filter.where` with `NOT listed`, or `listed`, does the rest.

    - `listed`: bool; false, never null, where the value is null.

    The file has one entry a line, or is a JSON list; in lines, `#` at a line's beginning or after a blank begins a comment.
    `match` says what an entry is:

    - `exact`: the value itself, to the letter, such as a URL or a sha256 that is a column already.
    - `domain`: a domain that stands for itself and for all below it; the column holds hosts (`text.url_parts`).
    - `md5`, `sha1`, `sha256`: hex digits of that hash of the value's UTF-8, as Re-LAION's lists of URLs have them.

    An entry takes 16 bytes of memory per worker. What stands on such a list already when it is downloaded is better given to
    `download` as `blocklists`: then it is never asked for.
    """

    batch_rows: ClassVar[int] = 8192

    path: Annotated[str, OPERATIONAL] = Field(description="file of entries; any fsspec URL; may be compressed")
    column: str = Field("url", description="column of text to look up")
    match: Literal["exact", "domain", "md5", "sha1", "sha256"] = Field("exact", description="what the list's entries are")

    @field_validator("path")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        self._entries()

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("listed", pa.bool_())])

    def identity(self) -> str:
        return list_identity("text.listed", self.path)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        marks = np.sort(np.array([_mark(entry) for entry in self._entries()], dtype=f"S{_BYTES}"))
        keys = _KEYS[self.match]

        def transform(batch: pa.Table) -> pa.Table:
            values = batch[self.column].to_pylist()
            rows, wanted = [], []
            for row, value in enumerate(values):
                for key in keys(value) if value is not None else ():
                    rows.append(row)
                    wanted.append(_mark(key))
            found = np.zeros(len(values), bool)
            found[np.array(rows, np.int64)[_holds(marks, np.array(wanted, dtype=f"S{_BYTES}"))]] = True
            return pa.table([pa.array(found)], schema=self.writes())

        yield transform

    def _entries(self) -> list[str]:
        """The list's entries, as values are looked up. Raises ConfigError."""
        lines = (_without_comment(line) for line in read_list("text.listed", self.path))
        entries = [line for line in lines if line]
        if self.match == "domain":
            return [entry.lower().removeprefix("*").strip(".") for entry in entries]
        digits = _HEX_DIGITS.get(self.match)
        for entry in entries if digits else ():
            if len(entry) != digits or set(entry) - set("0123456789abcdefABCDEF"):
                raise ConfigError(f"text.listed: {self.path}: {entry[:80]!r} is no {self.match}: {digits} hex digits")
        return [entry.lower() for entry in entries] if digits else entries


def _without_comment(line: str) -> str:
    # Inside a URL a hash sign begins a fragment.
    return "" if line.lstrip().startswith("#") else line.split(" #", maxsplit=1)[0].strip()


def _domains(host: str) -> Iterable[str]:
    labels = host.lower().rstrip(".").split(".")
    return (".".join(labels[start:]) for start in range(len(labels)))


def _hashed(name: str) -> Callable[[str], Iterable[str]]:
    return lambda value: (hashlib.new(name, value.encode(), usedforsecurity=False).hexdigest(),)


_KEYS: dict[str, Callable[[str], Iterable[str]]] = {
    "exact": lambda value: (value,),
    "domain": _domains,
    **{name: _hashed(name) for name in _HEX_DIGITS},
}


def _mark(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()


def _holds(marks: Any, wanted: Any) -> Any:
    """Which of `wanted` are among the sorted `marks`. NumPy's S type sorts as bytes do."""
    if not len(marks):
        return np.zeros(len(wanted), bool)
    places = np.searchsorted(marks, wanted).clip(max=len(marks) - 1)
    return marks[places] == wanted
