"""`read.img2dataset`: what img2dataset wrote, a row for each of its rows; images stay in its tars."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.fates import Failure, Status
from pairsift.stages.img2dataset_messages import fetch_failure, resize_failure
from pairsift.stages.read.formats.columns import Pick, pick
from pairsift.stages.read.formats.lookup import Join, join, joined
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.read.formats.places import IMAGE_EXTENSIONS, REFERENCE, places
from pairsift.stages.read.formats.tars import Broken, Sample, samples
from pairsift.stages.read.formats.vectors import columns_of_vectors, vector_fields, with_vectors
from pairsift.stages.sources import expanded, list_sources

_BOOKKEEPING = ("key", "status", "error_message")
_MEASURED = (schema.WIDTH, schema.HEIGHT, schema.ORIGINAL_WIDTH, schema.ORIGINAL_HEIGHT, schema.EXIF, schema.SHA256)


class Img2dataset(Reader):
    """Shards of img2dataset, or in its layout (DataComp's pools, pairsift's own): rows of 00000.parquet, images of 00000.tar.

    Gives `url`, `caption`, `uid` if there is one, `source_key`, the image's place (`image_path`, `image_offset`,
    `image_length`, `image_format`), the places of further members but .json and .txt (`source_members`), `width`, `height`,
    `original_width`, `original_height`, `exif` and `sha256` as far as they are there, then the Parquet's other columns, those
    of `vectors` (`fixed_size_list<float16>`) and those of `metadata`. The tar's texts are not read.

    A row that img2dataset failed on keeps its status, with a code made of its message. One that was a success and is not in
    the tar is `missing_image`, or `unreadable_row` where the tar is damaged before it. A sample that the Parquet does not
    list comes after the others, as an `unreadable_row`.
    """

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a folder of shards, a glob or brace pattern of tars ({00000..00099}.tar), any fsspec URL, or a list"
    )
    columns: dict[str, str] | None = Field(
        None, description="our name: the Parquet's name; default: url, caption and uid by their names"
    )
    extra: list[str] | None = Field(None, description="other columns of the Parquet to carry along; default: all")
    vectors: dict[str, str] | None = Field(
        None,
        description="our name: where unit vectors are that go with a shard's rows, or with its successes: a column of its "
        "Parquet, an array of an .npz beside it, or an .npy file, {} being the shard's number (../img_emb/img_emb_{}.npy)",
    )
    metadata: Annotated[str | list[str] | None, OPERATIONAL] = Field(
        None, description="Parquet files with more columns for the same rows, such as DataComp's metadata; held in memory"
    )
    metadata_key: str = Field("uid", description="the column, in both, that says which row is which")
    metadata_columns: list[str] | None = Field(None, description="which of their columns; default: all that are not there yet")

    def check(self) -> None:
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        tars = list_sources(expanded(self.path), ["tar"])
        parquets = {source.uri: source for source in list_sources([_parquet(tar.uri) for tar in tars], ["parquet"])}
        return [_both(tar, parquets[_parquet(tar.uri)]) for tar in tars]

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        return pa.schema([*self._own, *(self._join.fields if self._join else ())])

    def read(self, source: Source) -> Iterator[pa.Table]:
        found, damage = _index(source.uri)
        uri = _parquet(source.uri)
        wanted = [*(theirs for theirs, _ in self.picks), *(name for name in _BOOKKEEPING if name in parquet_columns(uri).names)]
        text = frozenset({*_BOOKKEEPING, *(theirs for theirs, ours in self.picks if ours.name in ("url", "caption", "uid"))})
        names = dict.fromkeys([*wanted, *columns_of_vectors(uri, self.vectors).values()])
        tables = parquet_tables(uri, [*names], text)
        for table in with_vectors(tables, uri, self.vectors, self._vectors) if self.vectors else tables:
            yield self._table(table, source.uri, found, damage)
        rest = [*found.values()]
        if rest:
            columns = places(rest, source.uri, IMAGE_EXTENSIONS, lambda name: name not in ("json", "txt"))
            details = [f"{source.uri} sample {sample.key}: {uri} does not list it" for sample in rest]
            yield self._finished(columns, [Failure.UNREADABLE_ROW.value] * len(rest), details)

    @cached_property
    def picks(self) -> list[Pick]:
        """What is taken of each Parquet, by the first one's columns."""
        uri = _parquet(self.sources()[0].uri)
        found = parquet_columns(uri)
        lacking = [name for name in ("url", "key", "status") if name not in found.names]
        if lacking and self.columns is None:
            raise ConfigError(f"{uri} has no column {lacking[0]!r}: it is not img2dataset's")
        mapping = self.columns or {name: name for name in ("url", "caption", "uid") if name in found.names}
        measured = [Pick(field.name, field) for field in _MEASURED if field.name in found.names]
        aside = {*_BOOKKEEPING, *(name for name, _ in measured), *columns_of_vectors(uri, self.vectors).values()}
        extra = (
            self.extra if self.extra is not None else [n for n in found.names if n not in aside and n not in mapping.values()]
        )
        return [*pick(found, mapping, [name for name in extra if name not in aside], uri), *measured]

    @cached_property
    def _vectors(self) -> list[pa.Field]:
        """The columns of vectors, by the first shard's."""
        if not self.vectors:
            return []
        return vector_fields(_parquet(self.sources()[0].uri), self.vectors, (ours.name for _, ours in self.picks))

    @cached_property
    def _join(self) -> Join | None:
        if self.metadata is None:
            return None
        return join(self.metadata, self.metadata_key, self.metadata_columns, self._own)

    @property
    def _own(self) -> pa.Schema:
        fields = {ours.name: ours for _, ours in self.picks}
        first = [schema.URL, schema.CAPTION, *([fields["uid"]] if "uid" in fields else []), *REFERENCE]
        named = {field.name for field in first}
        return pa.schema([*first, *(field for name, field in fields.items() if name not in named), *self._vectors])

    def _table(self, table: pa.Table, uri: str, found: dict[str, Sample], damage: str | None) -> pa.Table:
        keys = table["key"].to_pylist()
        statuses = table["status"].to_pylist() if "status" in table.column_names else [Status.SUCCESS.value] * len(keys)
        messages = table["error_message"].to_pylist() if "error_message" in table.column_names else [None] * len(keys)
        nothing = Sample("", {})
        listed = [found.pop(key, nothing) if key is not None else nothing for key in keys]
        columns = places(listed, uri, IMAGE_EXTENSIONS, lambda name: name not in ("json", "txt"))
        columns["source_key"] = keys
        failures, details = table["failure"].to_pylist(), table["failure_detail"].to_pylist()
        for n, key in enumerate(keys):
            if failures[n] is None:
                has_image = columns["image_path"][n] is not None
                failure, details[n] = _fate(statuses[n], messages[n], listed[n], has_image, damage)
                failures[n] = failure.value if failure else None
                if failure and failure.status is Status.FAILED_TO_READ:
                    details[n] = f"{uri} sample {key}: {details[n]}"
        for theirs, ours in self.picks:
            columns[ours.name] = table[theirs].cast(ours.type)
        columns |= {field.name: table[field.name] for field in self._vectors}
        return self._finished(columns, failures, details)

    def _finished(self, columns: dict[str, Any], failures: Sequence[str | None], details: Sequence[str | None]) -> pa.Table:
        rows = len(failures)
        arrays = [_array(columns.get(field.name), field, rows) for field in self._own]
        table = joined(pa.table(arrays, schema=self._own), self._join)
        table = table.append_column(schema.FAILURE, pa.array(failures, pa.string()))
        return table.append_column(schema.FAILURE_DETAIL, pa.array(details, pa.string()))


def _parquet(tar: str) -> str:
    return f"{tar.removesuffix('.tar')}.parquet"


def _both(tar: Source, parquet: Source) -> Source:
    """A shard changes where one of its files does."""
    return tar.model_copy(update={"version": f"{tar.version}+{parquet.size}+{parquet.version}"})


def _index(uri: str) -> tuple[dict[str, Sample], str | None]:
    """The tar's samples by key, the first of each; and how it is damaged, if it is."""
    found: dict[str, Sample] = {}
    for sample in samples(uri, frozenset()):
        if isinstance(sample, Broken):
            return found, sample.detail
        found.setdefault(sample.key, sample)
    return found, None


def _fate(
    status: str | None, message: str | None, sample: Sample, has_image: bool, damage: str | None
) -> tuple[Failure | None, str | None]:
    if status == Status.FAILED_TO_DOWNLOAD.value:
        return fetch_failure(message or ""), message
    if status == Status.FAILED_TO_RESIZE.value:
        return resize_failure(message or ""), message
    if status != Status.SUCCESS.value:
        return Failure.MISSING_IMAGE, f"{status}: {message}"
    if sample.problem:
        return Failure.UNREADABLE_ROW, sample.problem
    if has_image:
        return None, None
    return (Failure.MISSING_IMAGE, "the tar has no such image") if damage is None else (Failure.UNREADABLE_ROW, damage)


def _array(values: Any, field: pa.Field, rows: int) -> Any:
    if values is None:
        return pa.nulls(rows, field.type)
    return pa.array(values, field.type) if isinstance(values, list) else values
