"""`read.image_parquet`: Parquet files with the images inside, as Hugging Face's datasets have them."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.headers import sniff
from pairsift.stages.read.formats.captions import LISTED, is_list_of_text, spread_table
from pairsift.stages.read.formats.columns import Pick, pick
from pairsift.stages.read.formats.parquet_rows import parquet_columns, parquet_tables
from pairsift.stages.read.formats.vectors import columns_of_vectors, vector_fields, with_vectors
from pairsift.stages.sources import list_sources

_TEXT_NAMES = ("url", "caption", "uid")
_LIKELY = ("image", "jpg", "img", "picture", "photo", "png", "webp", "jpeg")


class ImageParquet(Reader):
    """Images and texts from Parquet files: an image is a struct of `bytes` and `path`, or just bytes.

    The bytes of a Parquet file cannot be referred to by place, so images are copied, once and unchanged, into payloads in the
    work folder, whatever the rules are. Gives `url` and `caption` (null where the source has none), `source_key` (the image's
    `path`), the image and its `image_format` (by its first bytes), then every other column of the first file. One that is
    called like a column of pairsift's own is carried as `source_NAME`. Of a caption that is a list, the first is `caption`,
    and all are `captions`.

    A row without bytes is `missing_image`: paths are never followed. One whose bytes are no known image is `not_an_image`. What
    is damaged is `unreadable_row`, and text that is not UTF-8 `invalid_text`, as in read.urls.
    """

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a Parquet file, a folder of them, a glob, any fsspec URL, or a list of these"
    )
    image: str | None = Field(None, description="the column that holds images; default: the one that looks like it")
    columns: dict[str, str] | None = Field(
        None, description="our name: their name, such as {caption: text}; default: the columns called url and caption"
    )
    extra: list[str] | None = Field(None, description="other columns to carry along, by the source's names; default: all")
    vectors: dict[str, str] | None = Field(
        None, description="our name: where unit vectors are that go with a file's rows, as in read.urls"
    )

    def check(self) -> None:
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        return list_sources(self.path, ["parquet", "pq"])

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        named = {ours.name: ours for _, ours in self.picks}
        captions = [schema.CAPTIONS] if self._has_lists else []
        uid = [named["uid"]] if "uid" in named else []
        first = [schema.URL, schema.CAPTION, *captions, *uid, schema.SOURCE_KEY, schema.IMAGE, schema.IMAGE_FORMAT]
        return pa.schema([*first, *(field for name, field in named.items() if name not in _TEXT_NAMES), *self._vectors])

    def read(self, source: Source) -> Iterator[pa.Table]:
        theirs = [name for name, _ in self.picks]
        text = frozenset(name for name, ours in self.picks if ours.name in _TEXT_NAMES)
        found = parquet_columns(source.uri).names
        for name in (self._image[0], *(name for name, ours in self.picks if ours.name in _TEXT_NAMES)):
            if name not in found:
                raise ConfigError(f"{source.uri} has no column {name!r}; its columns are {', '.join(found)}")
        names = dict.fromkeys([self._image[0], *theirs, *columns_of_vectors(source.uri, self.vectors).values()])
        tables = parquet_tables(source.uri, [*names], text)
        for table in with_vectors(tables, source.uri, self.vectors, self._vectors) if self.vectors else tables:
            yield self._table(table, source.uri)

    @cached_property
    def picks(self) -> list[Pick]:
        """What is taken of each file beside the image, by the first one's columns."""
        uri, found = self._first
        image = self._image[0]
        mapping = self.columns
        if mapping is None:
            mapping = {name: name for name in ("url", "caption") if name in found.names}
        if image in mapping.values():
            raise ConfigError(f"input.columns: {image!r} is the image's column")
        if self._has_lists:  # a caption all the same
            place = found.get_field_index(mapping["caption"])
            found = found.set(place, found.field(place).with_type(pa.string()))
        aside = {image, *mapping.values()}
        if self.extra is None:
            aside |= {*columns_of_vectors(uri, self.vectors).values()}
        extra = [name for name in (found.names if self.extra is None else self.extra) if name not in aside]
        return pick(found, mapping, extra, uri, needs_url=False)

    @cached_property
    def _vectors(self) -> list[pa.Field]:
        """The columns of vectors, by the first file's."""
        if not self.vectors:
            return []
        return vector_fields(self._first[0], self.vectors, (ours.name for _, ours in self.picks))

    @cached_property
    def _first(self) -> tuple[str, pa.Schema]:
        uri = self.sources()[0].uri
        return uri, parquet_columns(uri)

    @cached_property
    def _image(self) -> tuple[str, Literal["struct", "bytes"]]:
        """The image's column, and what it is."""
        uri, found = self._first
        kinds = {field.name: kind for field in found if (kind := _kind(field.type))}
        if self.image is not None:
            if self.image not in kinds:
                raise ConfigError(f"{uri} has no column {self.image!r} of images; {_those_of(kinds)}")
            return self.image, kinds[self.image]
        structs = [name for name, kind in kinds.items() if kind == "struct"]
        likely = [name for name in kinds if name in _LIKELY] if len(structs) != 1 else structs
        if len(likely) != 1:
            raise ConfigError(f"{uri}: say which column holds the images with input.image; {_those_of(kinds)}")
        return likely[0], kinds[likely[0]]

    @property
    def _has_lists(self) -> bool:
        _, found = self._first
        name = "caption" if self.columns is None else self.columns.get("caption")
        return name in found.names and is_list_of_text(found.field(name).type)

    def _table(self, table: pa.Table, uri: str) -> pa.Table:
        theirs = {ours.name: name for name, ours in self.picks}
        if self._has_lists:
            table = spread_table(table, theirs["caption"], "list")
        name, kind = self._image
        images = table[name].combine_chunks()
        paths = (
            pc.struct_field(images, "path").cast(pa.string()) if kind == "struct" and "path" in _names(images.type) else None
        )
        images = (pc.struct_field(images, "bytes") if kind == "struct" else images).cast(pa.large_binary())
        failures, details = table["failure"].to_pylist(), table["failure_detail"].to_pylist()
        formats = [sniff(image.as_buffer()[:64].to_pybytes()) if image.is_valid else None for image in images]
        for row, found in enumerate(formats):
            if found is None and failures[row] is None:
                missing = not images[row].is_valid
                failures[row] = (Failure.MISSING_IMAGE if missing else Failure.NOT_AN_IMAGE).value
                details[row] = f"{uri}: {name} has no bytes" if missing else f"{uri}: {name} is no image of a known format"
        lost = pa.array([failure is not None for failure in failures])
        if lost.true_count > images.null_count:  # or it would copy the others for nothing
            images = pc.if_else(lost, pa.scalar(None, pa.large_binary()), images)
        columns = {
            "source_key": paths,
            "image": images,
            "image_format": pa.array(formats, pa.string()),
            "captions": table[LISTED] if self._has_lists else None,
        }
        columns |= {ours.name: table[name] for name, ours in self.picks if name in table.column_names}
        columns |= {field.name: table[field.name] for field in self._vectors}
        arrays = [_cast(columns.get(field.name), field, len(table), uri) for field in self.schema()]
        found = pa.table(arrays, schema=self.schema()).append_column(schema.FAILURE, pa.array(failures, pa.string()))
        return found.append_column(schema.FAILURE_DETAIL, pa.array(details, pa.string()))


def _kind(kind: pa.DataType) -> Literal["struct", "bytes"] | None:
    if pa.types.is_struct(kind):
        return "struct" if "bytes" in _names(kind) and _is_binary(kind.field("bytes").type) else None
    return "bytes" if _is_binary(kind) else None


def _names(kind: pa.StructType) -> list[str]:
    return [kind.field(place).name for place in range(kind.num_fields)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _those_of(kinds: dict[str, Literal["struct", "bytes"]]) -> str:
    return f"columns of bytes are {', '.join(kinds)}" if kinds else "no column holds bytes; lists of URLs are for read.urls"


def _cast(column: pa.ChunkedArray | pa.Array | None, field: pa.Field, rows: int, uri: str) -> pa.ChunkedArray | pa.Array:
    if column is None:
        return pa.nulls(rows, field.type)
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{uri}: {field.name!r} is {column.type}, and {field.type} in the first file") from error
