"""`read.urls`: lists of URLs with captions, from Parquet, CSV, TSV, JSON, JSON Lines or plain text."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.read.formats.captions import LISTED, Mode, is_list_of_text, listed, spread_record, spread_table
from pairsift.stages.read.formats.columns import Pick, pick, require
from pairsift.stages.read.formats.delimited import check_header, delimited_columns, delimited_tables
from pairsift.stages.read.formats.jsonlines import json_columns, json_tables, jsonl_columns, jsonl_tables
from pairsift.stages.read.formats.lines import txt_tables
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.read.formats.presets import PRESETS, Name
from pairsift.stages.read.formats.vectors import columns_of_vectors, vector_fields, with_vectors
from pairsift.stages.sources import extension, list_sources

Format = Literal["parquet", "csv", "tsv", "json", "jsonl", "txt"]

_EXTENSIONS: dict[str, Format] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "txt": "txt",
}
_DELIMITERS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_FAILURES = (schema.FAILURE, schema.FAILURE_DETAIL)


class Urls(Reader):
    """URLs and captions from Parquet, CSV, TSV, JSON, JSON Lines or text files with one URL per line. Text may be compressed.

    Gives `url` and `caption` (null where the source has none), then every other column of the first file that has rows, as it
    is: CSV's as text, JSON's by what its first 1000 lines hold, Parquet's with their types. One that is called like a column
    of pairsift's own (key, width, sha256, …, whatever the case) is carried as `source_NAME`. A later file may lack extra
    columns (null) or have more (left out), but must not have types that do not convert.

    Every row is given. One that cannot be parsed has the failure `unreadable_row`, one with bytes that are not UTF-8
    `invalid_text`, and both a `failure_detail` that says where; those two columns come last in every table. Blank lines are no
    rows. An empty CSV field is an empty string, not null.

    A caption may be a list of texts (in JSON and Parquet): `captions` says what becomes of it. A JSON file is a list of
    objects, or has COCO's shape, whose captions are joined to their images; RedCaps'; or SBU's, a list for each column.
    """

    needs: ClassVar[str] = "url"  # the column without which there is nothing to be had

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a file, a folder (its files of known kinds, by name), a glob, any fsspec URL, or a list of these"
    )
    format: Literal["auto", "parquet", "csv", "tsv", "json", "jsonl", "txt"] = Field(
        "auto", description="auto goes by the file's extension, .gz and other compression suffixes aside"
    )
    preset: Name | None = Field(
        None, description="a well-known list, whose columns and header need not be said; columns given here go before it"
    )
    columns: dict[str, str] | None = Field(
        None,
        description="our name: their name, such as {url: URL, caption: TEXT}; default: the columns called url and caption; "
        "uid takes the source's own identifier; any other name renames a column",
    )
    captions: Mode = Field(
        "rows",
        description="of a caption that is a list: rows, a row for each; list, one row with the first as caption and all "
        "of them as captions",
    )
    extra: list[str] | None = Field(None, description="other columns to carry along, by the source's names; default: all")
    header: list[str] | None = Field(None, description="column names of CSV or TSV files that have no header line")
    vectors: dict[str, str] | None = Field(
        None,
        description="our name: where unit vectors are that go with a Parquet file's rows: a column of it, an array of the "
        ".npz beside it (DataComp's l14_img), or an .npy file, {} being the file's number (../img_emb/img_emb_{}.npy)",
    )

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
        return self._listed

    def read(self, source: Source) -> Iterator[pa.Table]:
        yield from self._read(source)

    @property
    def _listed(self) -> pa.Schema:
        """The columns that come of the lists."""
        captions = [schema.CAPTIONS] if self.captions == "list" else []
        others = (ours for _, ours in self.picks if ours.name not in ("url", "caption"))
        return pa.schema([schema.URL, schema.CAPTION, *captions, *others, *self._vectors])

    def _read(self, source: Source) -> Iterator[pa.Table]:
        fields = self._listed
        theirs = {ours.name: name for name, ours in self.picks} | {field.name: field.name for field in self._vectors}
        for table in self._tables(source.uri):
            arrays = [_column(table, theirs.get(field.name), field, source.uri) for field in fields]
            if self.captions == "list":
                arrays[fields.names.index("captions")] = listed(table, theirs.get("caption"))
            failures = [table.column(field.name) for field in _FAILURES]
            yield pa.table([*arrays, *failures], schema=pa.schema([*fields, *_FAILURES]))

    @cached_property
    def _vectors(self) -> list[pa.Field]:
        """The columns of vectors, by the first file's."""
        if not self.vectors:
            return []
        sources = self.sources()
        for source in sources:
            if self._format(source.uri) != "parquet":
                raise ConfigError(f"input.vectors: {source.uri} is no Parquet file")
        return vector_fields(sources[0].uri, self.vectors, (ours.name for _, ours in self.picks))

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
                names = self._mapping(found.names)
                return pick(found, names, self._extra(found, source.uri), source.uri, needs_url=self.needs == "url")
        return []

    def _extra(self, found: pa.Schema, uri: str) -> list[str] | None:
        """`extra`; where all columns are meant, all but those that are given as vectors."""
        if self.extra is not None or not self.vectors or self._format(uri) != "parquet":
            return self.extra
        return [name for name in found.names if name not in columns_of_vectors(uri, self.vectors).values()]

    def _format(self, uri: str) -> Format:
        if self.format != "auto":
            return self.format
        kind = _EXTENSIONS.get(extension(uri))
        if kind is None:
            raise ConfigError(f"cannot tell the format of {uri}: say input.format: parquet, csv, tsv, json, jsonl or txt")
        return kind

    def _columns(self, uri: str) -> pa.Schema:
        """The columns that a file has, by its own names."""
        kind = self._format(uri)
        if kind == "parquet":
            found = parquet_columns(uri)
            caption = self._text_names(found.names).get("caption")
            return pa.schema([_as_text(f) if f.name == caption and is_list_of_text(f.type) else f for f in found])
        if kind in ("json", "jsonl"):
            # A caption that is the number 1984 is the text "1984".
            found = json_columns(uri) if kind == "json" else jsonl_columns(uri)
            texts = set(self._text_names(found.names).values())
            return pa.schema([_as_text(field) if field.name in texts else field for field in found])
        names = ["url"] if kind == "txt" else delimited_columns(uri, _DELIMITERS[kind], self._header(uri))
        return pa.schema([(name, pa.string()) for name in names])

    def _tables(self, uri: str) -> Iterator[pa.Table]:
        """The picked columns of a file by its own names, as far as it has them, then the failures."""
        kind = self._format(uri)
        found = self._columns(uri)
        if found.names:
            require(found, self.picks, uri)
        wanted = pa.schema({name: ours.type for name, ours in self.picks})
        texts = self._text_names(found.names)
        text, caption = frozenset(texts.values()), texts.get("caption")
        if kind == "parquet":
            if not self.vectors:
                return self._spread(parquet_tables(uri, wanted.names, text), caption)
            names = dict.fromkeys([*wanted.names, *columns_of_vectors(uri, self.vectors).values()])
            return self._spread(with_vectors(parquet_tables(uri, [*names], text), uri, self.vectors, self._vectors), caption)
        if kind in ("json", "jsonl"):
            wanted = wanted.append(schema.CAPTIONS.with_name(LISTED)) if self.captions == "list" else wanted
            read = json_tables if kind == "json" else jsonl_tables
            return read(uri, wanted, text, lambda found: spread_record(found, caption or "", self.captions))
        if kind == "txt":
            return txt_tables(uri, "url")
        return delimited_tables(uri, _DELIMITERS[kind], self._header(uri), [n for n in wanted.names if n in found.names])

    def _spread(self, tables: Iterator[pa.Table], caption: str | None) -> Iterator[pa.Table]:
        for table in tables:
            lists = caption in table.column_names and is_list_of_text(table.schema.field(caption).type)
            yield spread_table(table, caption, self.captions) if lists and caption else table

    def _header(self, uri: str) -> list[str] | None:
        """Names for a file's columns, if it has no line with them: a preset's, unless there is one all the same."""
        if self.header is not None or self.preset is None or PRESETS[self.preset].header is None:
            return self.header
        names = list(PRESETS[self.preset].header or ())
        first = delimited_columns(uri, _DELIMITERS[self._format(uri)], None)
        return None if set(names) <= set(first) else names

    def _check_header(self, uri: str) -> None:
        kind = self._format(uri)
        if kind in _DELIMITERS and (header := self._header(uri)) is not None:
            check_header(uri, _DELIMITERS[kind], header)

    def _mapping(self, found: Sequence[str]) -> dict[str, str] | None:
        """Our name: theirs, for a file with these columns; None where nobody said."""
        if self.preset is None:
            return self.columns
        return PRESETS[self.preset].mapping(found, self.needs) | (self.columns or {})

    def _text_names(self, found: Sequence[str]) -> dict[str, str]:
        """Of these columns, those that become url, caption and uid."""
        mapping = self._mapping(found)
        names = {"url": "url", "caption": "caption"} if mapping is None else mapping
        return {ours: theirs for ours, theirs in names.items() if ours in ("url", "caption", "uid")}


def _as_text(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string())


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
