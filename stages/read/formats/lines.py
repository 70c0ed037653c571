"""Text files as lines, and rows as tables: what the readers of text formats share.

No line is lost and none stops a read: what is wrong with a line is said beside it.
"""

import lzma
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import pyarrow as pa

from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Failure
from pairsift.stages.sources import open_source

MAX_LINE = 64 << 20  # bytes; a longer line is not held in memory but given as unreadable
TABLE_ROWS = 1000
TABLE_BYTES = 16 << 20  # of text; a table is closed at whichever of the two comes first

REPLACEMENT = "\ufffd"  # stands where bytes were not UTF-8


class Line(NamedTuple):
    """One line of a text file, and what is wrong with it."""

    number: int  # from 1
    text: str  # with its line end, as in the file
    failure: Failure | None = None  # INVALID_TEXT: text holds replacement characters; UNREADABLE_ROW: text is not to be used
    detail: str | None = None


def lines(uri: str) -> Iterator[Line]:
    """The file's lines, split at line feeds, decompressed by the file's name, without a byte order mark.

    A compressed file that is damaged gives its lines up to there, then one unreadable line.

    Raises:
        ConfigError: for UTF-16 and UTF-32, told by their byte order mark.
    """
    with open_source(uri, decompress=True) as file:
        number = 0
        try:
            while raw := file.readline(MAX_LINE):
                number += 1
                yield _line(file, raw, number, uri)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            yield Line(number + 1, "", Failure.UNREADABLE_ROW, f"{uri} breaks off after line {number}: {error}")
        except OSError as error:
            # gzip and bz2 raise a bare OSError for damage; what comes from the system or the network has a number.
            if error.errno is not None:
                raise
            yield Line(number + 1, "", Failure.UNREADABLE_ROW, f"{uri} breaks off after line {number}: {error}")


def _line(file: IO[bytes], raw: bytes, number: int, uri: str) -> Line:
    if number == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError(f"{uri} is UTF-16 or UTF-32: convert it to UTF-8")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) >= MAX_LINE and not raw.endswith(b"\n"):
        while rest := file.readline(MAX_LINE):
            if rest.endswith(b"\n"):
                break
        return Line(number, "", Failure.UNREADABLE_ROW, f"line {number}: longer than {MAX_LINE} bytes")
    if b"\0" in raw:
        return Line(number, "", Failure.UNREADABLE_ROW, f"line {number}: holds a NUL byte")
    try:
        return Line(number, raw.decode())
    except UnicodeDecodeError:
        return Line(number, raw.decode(errors="replace"), Failure.INVALID_TEXT, f"line {number}: not UTF-8")


class TableBuilder:
    """Collects rows into tables with the given columns, then `failure` and `failure_detail`."""

    def __init__(self, columns: pa.Schema) -> None:
        self._schema = pa.schema([*columns, schema.FAILURE, schema.FAILURE_DETAIL])
        self._width = len(columns)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(
        self, values: Sequence[Any] | None, failure: Failure | None = None, detail: str | None = None, size: int = 0
    ) -> Iterator[pa.Table]:
        """One row, all null where `values` is None. `size` is about its bytes. Gives a table when one is full."""
        row = (None,) * self._width if values is None else tuple(values)
        self._rows.append((*row, failure.value if failure else None, detail))
        self._bytes += size
        if len(self._rows) >= TABLE_ROWS or self._bytes >= TABLE_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[pa.Table]:
        """What is left, if anything."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._rows, self._bytes = [], 0
            yield pa.table(arrays, schema=self._schema)


def clean(text: str) -> str | None:
    """None where the text holds a character that stands for bytes that are not UTF-8."""
    return None if REPLACEMENT in text else text


def txt_tables(uri: str, column: str) -> Iterator[pa.Table]:
    """One column, one row per line, without white space around it. A blank line is no row."""
    builder = TableBuilder(pa.schema([(column, pa.string())]))
    for line in lines(uri):
        text = line.text.strip()
        if text or line.failure:
            yield from builder.add([clean(text) or None], line.failure, line.detail, len(line.text))
    yield from builder.rest()
