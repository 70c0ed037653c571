"""`read.urls`: lists of URLs with captions, from Parquet, CSV, TSV, JSON Lines or plain text."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.read.formats.columns import Pick, pick, require
from pairsift.stages.read.formats.delimited import check_header, delimited_columns, delimited_tables
from pairsift.stages.read.formats.jsonlines import jsonl_columns, jsonl_tables
from pairsift.stages.read.formats.lines import txt_tables
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.sources import extension, list_sources

Format = Literal["parquet", "csv", "tsv", "jsonl", "txt"]

_EXTENSIONS: dict[str, Format] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "txt": "txt",
}
_DELIMITERS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_FAILURES = (schema.FAILURE, schema.FAILURE_DETAIL)


class Urls(Reader):
    """URLs and captions from Parquet, CSV, TSV, JSON Lines (each may be compressed) or text files with one URL per line.

    Gives `url` and `caption` (null where the source has none), then every other column of the first file that has rows, as it
    is: CSV's as text, JSON's by what its first 1000 lines hold, Parquet's with their types. One that is called like a column
    of pairsift's own (key, width, sha256, …, whatever the case) is carried as `source_NAME`. A later file may lack extra
    columns (null) or have more (left out), but must not have types that do not convert.

    Every row is given. One that cannot be parsed has the failure `unreadable_row`, one with bytes that are not UTF-8
    `invalid_text`, and both a `failure_detail` that says where; those two columns come last in every table. Blank lines are no
    rows. An empty CSV field is an empty string, not null.
    """

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a file, a folder (its files of known kinds, by name), a glob, any fsspec URL, or a list of these"
    )
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl", "txt"] = Field(
        "auto", description="auto goes by the file's extension, .gz and other compression suffixes aside"
    )
    columns: dict[str, str] | None = Field(
        None,
        description="our name: their name, such as {url: URL, caption: TEXT}; default: the columns called url and caption; "
        "uid takes the source's own identifier; any other name renames a column",
    )
    extra: list[str] | None = Field(None, description="other columns to carry along, by the source's names; default: all")
    header: list[str] | None = Field(None, description="column names of CSV or TSV files that have no header line")

    def check(self) -> None:
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        sources = list_sources(self.path, [ext for ext, kind in _EXTENSIONS.items() if self.format in ("auto", kind)])
        formats = {self._format(source.uri) for source in sources}
        if "txt" in formats and len(formats) > 1:
            # Beside files with columns, a .txt is a README more often than a list of URLs.
            text = next(source.uri for source in sources if self._format(source.uri) == "txt")
            raise ConfigError(f"input.path mixes {text} with files of other formats; say input.format, or use a glob")
        return sources

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        return pa.schema([schema.URL, schema.CAPTION, *(ours for _, ours in self.picks if ours.name not in ("url", "caption"))])

    def read(self, source: Source) -> Iterator[pa.Table]:
        fields = self.schema()
        theirs = {ours.name: name for name, ours in self.picks}
        for table in self._tables(source.uri):
            arrays = [_column(table, theirs.get(field.name), field, source.uri) for field in fields]
            failures = [table.column(field.name) for field in _FAILURES]
            yield pa.table([*arrays, *failures], schema=pa.schema([*fields, *_FAILURES]))

    @cached_property
    def picks(self) -> list[Pick]:
        """What is taken from each file, by the columns of the first that has any."""
        for source in self.sources():
            try:
                found = self._columns(source.uri)
            except OSError as error:
                raise ConfigError(f"cannot read {source.uri}: {' '.join(str(error).split())}") from error
            if found.names:
                self._check_header(source.uri)
                return pick(found, self.columns, self.extra, source.uri)
        return []

    def _format(self, uri: str) -> Format:
        if self.format != "auto":
            return self.format
        kind = _EXTENSIONS.get(extension(uri))
        if kind is None:
            raise ConfigError(f"cannot tell the format of {uri}: say input.format: parquet, csv, tsv, jsonl or txt")
        return kind

    def _columns(self, uri: str) -> pa.Schema:
        """The columns that a file has, by its own names."""
        kind = self._format(uri)
        if kind == "parquet":
            return parquet_columns(uri)
        if kind == "jsonl":
            # A caption that is the number 1984 is the text "1984".
            found = jsonl_columns(uri)
            return pa.schema([field.with_type(pa.string()) if field.name in self._text_columns else field for field in found])
        names = ["url"] if kind == "txt" else delimited_columns(uri, _DELIMITERS[kind], self.header)
        return pa.schema([(name, pa.string()) for name in names])

    def _tables(self, uri: str) -> Iterator[pa.Table]:
        """The picked columns of a file by its own names, as far as it has them, then the failures."""
        kind = self._format(uri)
        found = self._columns(uri)
        if found.names:
            require(found, self.picks, uri)
        wanted = pa.schema({name: ours.type for name, ours in self.picks})
        if kind == "parquet":
            return parquet_tables(uri, wanted.names, self._text_columns)
        if kind == "jsonl":
            return jsonl_tables(uri, wanted, self._text_columns)
        if kind == "txt":
            return txt_tables(uri, "url")
        return delimited_tables(uri, _DELIMITERS[kind], self.header, [name for name in wanted.names if name in found.names])

    def _check_header(self, uri: str) -> None:
        kind = self._format(uri)
        if self.header is not None and kind in _DELIMITERS:
            check_header(uri, _DELIMITERS[kind], self.header)

    @property
    def _text_columns(self) -> frozenset[str]:
        """The source's names of the columns that become url, caption and uid."""
        names = self.columns if self.columns is not None else {"url": "url", "caption": "caption"}
        return frozenset(theirs for ours, theirs in names.items() if ours in ("url", "caption", "uid"))


def _column(table: pa.Table, theirs: str | None, field: pa.Field, uri: str) -> pa.ChunkedArray | pa.Array:
    """One column of ours. Raises ConfigError where a later file's type does not convert to the first's."""
    if theirs is None or theirs not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(theirs)
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"{uri}: the column {theirs!r} is {column.type}, and {field.type} in the first file; leave it out with input.extra"
        ) from error
