"""CSV and TSV as tables of strings, row by row, with Python's csv module.

Quoted fields may hold the delimiter, doubled quotes and line ends. A quote that is never closed must not swallow the rows
after it: such a record is given up after its first line, and reading goes on with the second.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import pyarrow as pa

from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.lines import MAX_LINE, Line, TableBuilder, clean, lines

MAX_RECORD_LINES = 10_000  # a quoted field with more line ends than this is taken for a quote that was never closed
MAX_RECORD_CHARACTERS = 16 << 20


class Record(NamedTuple):
    """One row as the file has it, or what is wrong with it: `fields` is None where it could not be read."""

    number: int  # of its first line
    fields: list[str] | None
    failure: Failure | None
    detail: str | None
    size: int  # characters


def delimited_columns(uri: str, delimiter: str, header: Sequence[str] | None) -> list[str]:
    """The column names: `header`, or else the file's first line; none of an empty file.

    A column without a name is called `column_3` by its place, from 1; the second of a name `name_2`.

    Raises:
        ConfigError: where the first line cannot be read.
    """
    if header is not None:
        return list(header)
    first = next(_records(uri, delimiter, None), None)
    if first is None:
        return []
    if first.fields is None or first.failure:
        raise ConfigError(f"{uri} has no readable header: {first.detail}")
    names: list[str] = []
    for place, name in enumerate(first.fields, 1):
        wanted = name.strip() or f"column_{place}"
        names.append(_numbered(wanted, names) if wanted in names else wanted)
    return names


def check_header(uri: str, delimiter: str, header: Sequence[str]) -> None:
    """Raise ConfigError where the first line does not have as many fields as `header` has names."""
    first = next(_records(uri, delimiter, None), None)
    if first and first.fields is not None and len(first.fields) != len(header):
        raise ConfigError(f"{uri} has {len(first.fields)} fields in its first line, and input.header names {len(header)}")


def delimited_tables(uri: str, delimiter: str, header: Sequence[str] | None, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """The columns `wanted`, all strings, then `failure` and `failure_detail`. An empty field is an empty string.

    A row with another number of fields than there are columns is an `unreadable_row`; of one with bytes that are not UTF-8
    (`invalid_text`) the fields that are whole are kept. Blank lines are no rows.
    """
    names = delimited_columns(uri, delimiter, header)
    places = [names.index(name) for name in wanted]
    builder = TableBuilder(pa.schema([(name, pa.string()) for name in wanted]))
    records = _records(uri, delimiter, len(names))
    if header is None:
        next(records, None)
    for record in records:
        if record.fields is None:
            yield from builder.add(None, record.failure, record.detail)
        else:
            fields = [record.fields[place] for place in places]
            values = [clean(field) for field in fields] if record.failure else fields
            yield from builder.add(values, record.failure, record.detail, record.size)
    yield from builder.rest()


def _numbered(name: str, taken: Sequence[str]) -> str:
    return next(candidate for number in count(2) if (candidate := f"{name}_{number}") not in taken)


class _Feed:
    """Physical lines for csv.reader, which can be given back when a record turns out not to be one."""

    def __init__(self, source: Iterator[Line]) -> None:
        self._source = source
        self._waiting: deque[Line] = deque()
        self.taken: list[Line] = []
        self._characters = 0

    def begin(self) -> None:
        """Forget the record before."""
        self.taken = []
        self._characters = 0

    def keep_first(self) -> None:
        """Give back all lines of this record but the first."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._source)
        self.taken.append(line)
        self._characters += len(line.text)
        if line.failure is Failure.UNREADABLE_ROW:
            raise csv.Error(line.detail)
        if len(self.taken) > MAX_RECORD_LINES or self._characters > MAX_RECORD_CHARACTERS > len(self.taken[0].text):
            raise csv.Error("a quote is not closed")
        return line.text


def _records(uri: str, delimiter: str, width: int | None) -> Iterator[Record]:
    """Records of `width` fields (None: of any number), and what could not be read as one."""
    csv.field_size_limit(MAX_LINE)  # of the process; csv's own 128 KiB would refuse long captions
    feed = _Feed(lines(uri))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _recovered(feed, delimiter, width, str(error))
            continue
        if not fields:
            continue
        if width is None or len(fields) == width:
            damaged = next((line for line in feed.taken if line.failure), None)
            failure, detail = (damaged.failure, damaged.detail) if damaged else (None, None)
            yield Record(feed.taken[0].number, fields, failure, detail, sum(len(line.text) for line in feed.taken))
        else:
            yield _recovered(feed, delimiter, width, f"{len(fields)} fields, expected {width}", literal=len(feed.taken) > 1)


def _recovered(feed: _Feed, delimiter: str, width: int | None, problem: str, *, literal: bool = True) -> Record:
    """The first line of a record that failed, by itself; the others are given back.

    If its fields come out right when quotes are taken as plain characters, it is a row (`"So" she said`, and in a TSV, where
    quoting is rare, also a quote that is never closed). Else it is unreadable.
    """
    alone = len(feed.taken) == 1
    feed.keep_first()
    first = feed.taken[0]
    if first.failure is Failure.UNREADABLE_ROW:
        return Record(first.number, None, first.failure, first.detail, 0)
    fields = first.text.rstrip("\r\n").split(delimiter)
    if literal and (alone or delimiter == "\t") and len(fields) == width:
        return Record(first.number, fields, first.failure, first.detail, len(first.text))
    return Record(first.number, None, Failure.UNREADABLE_ROW, f"line {first.number}: {problem}", 0)
