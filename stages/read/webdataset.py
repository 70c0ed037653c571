"""`read.webdataset`: samples of existing tars, by reference; their image bytes are never decoded or copied."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.columns import RESERVED, Pick, free_name
from pairsift.stages.read.formats.json_batches import read_objects
from pairsift.stages.read.formats.jsonlines import parse_object, typed_columns
from pairsift.stages.read.formats.lines import TABLE_BYTES, TABLE_ROWS
from pairsift.stages.read.formats.lookup import Join, join, joined
from pairsift.stages.read.formats.places import IMAGE_EXTENSIONS, REFERENCE, places
from pairsift.stages.read.formats.tars import Broken, Sample, samples
from pairsift.stages.sources import expanded, list_sources

SAMPLE_SAMPLES = 100  # samples looked at for the names and types of JSON fields

_JSON = "json"
_PLAIN = ("url", "caption", "uid")
# What an earlier run measured, with the types that stages write.
_MEASURED = (schema.WIDTH, schema.HEIGHT, schema.ORIGINAL_WIDTH, schema.ORIGINAL_HEIGHT, schema.EXIF, schema.SHA256)
# An earlier run's bookkeeping: the key is in source_key, and what is in a tar was a success.
_DROPPED = frozenset({"key", "status", "error_message"})
_FIXED = (schema.URL, schema.CAPTION)


class Webdataset(Reader):
    """Samples of webdataset tars (img2dataset's, DataComp's, or anybody's), with their images left where they are.

    Gives `url` (of the JSON), `caption` (of the .txt, or where that is missing or empty, of the JSON), `uid` if the JSON has
    one, `source_key`, the image's place (`image_path`, `image_offset`, `image_length`, `image_format`), the places of the
    sample's other members (`source_members`), what the JSON says of width, height, original_width, original_height, exif and
    sha256, and its other fields with types found by looking at the first 100 samples; lists and objects are carried as JSON
    text. A field that is called like a column of pairsift's own is carried as `source_NAME`; key, status and
    error_message are left out.

    Every sample is a row. One without an image is `missing_image`; one whose JSON cannot be parsed or does not fit its columns
    `unreadable_row`; one whose text is not UTF-8 `invalid_text`. A damaged tar gives the samples before the damage, then one
    `unreadable_row` for all that follows.
    """

    version = 2

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a tar, a folder of tars, a glob, a brace pattern ({00000..00099}.tar), any fsspec URL, or a list of these"
    )
    images: list[str] = Field(
        list(IMAGE_EXTENSIONS),
        min_length=1,
        description="extensions of image members; the first of these that a sample has is its image",
    )
    texts: list[str] = Field(
        ["txt", "text", "caption"], description="extensions of caption members; the first of these that a sample has"
    )
    columns: dict[str, str] | None = Field(
        None,
        description="our name: the JSON field, such as {caption: recaption, uid: id}; default: url, caption and uid by their "
        "names. A caption that is named here goes before the .txt",
    )
    extra: list[str] | None = Field(None, description="other JSON fields to carry along; default: all")
    members: list[str] | None = Field(
        None, description="extensions of other members to carry along, as they are; default: all but images, texts and JSON"
    )

    metadata: Annotated[str | list[str] | None, OPERATIONAL] = Field(
        None, description="Parquet files with more columns for the same rows, such as DataComp's metadata; held in memory"
    )
    metadata_key: str = Field(
        "uid", description="the column, in both, that says which row is which; key is the samples' source_key"
    )
    metadata_columns: list[str] | None = Field(None, description="which of their columns; default: all that are not there yet")

    def check(self) -> None:
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        sources = list_sources(expanded(self.path), ["tar"])
        for source in sources:
            if not source.uri.lower().split("?")[0].endswith(".tar"):
                raise ConfigError(f"{source.uri} is not a .tar: images are referred to by their place in an uncompressed tar")
        return sources

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        return pa.schema([*self._own, *(self._join.fields if self._join else ())])

    def read(self, source: Source) -> Iterator[pa.Table]:
        for batch in _batches(samples(source.uri, self._wanted_members)):
            yield self._table(batch, source.uri)

    @cached_property
    def picks(self) -> list[Pick]:
        """JSON fields and the columns they become, by the first samples of the first tar that has any."""
        for source in self.sources():
            try:
                first = [s for s in islice(samples(source.uri, self._wanted_members), SAMPLE_SAMPLES) if isinstance(s, Sample)]
            except OSError as error:
                raise ConfigError(f"cannot read {source.uri}: {' '.join(str(error).split())}") from error
            if first:
                found = typed_columns(parsed for s in first if isinstance(parsed := _json(s), dict))
                return self._picked(found, source.uri)
        return self._picked(pa.schema([]), "")

    @cached_property
    def _join(self) -> Join | None:
        if self.metadata is None:
            return None
        return join(self.metadata, self.metadata_key, self.metadata_columns, self._own)

    @property
    def _own(self) -> pa.Schema:
        """The columns that come of the tars."""
        named = [ours for _, ours in self.picks if ours.name not in ("url", "caption")]
        uid = [field for field in named if field.name == "uid"]
        return pa.schema([*_FIXED, *uid, *REFERENCE, *(field for field in named if field.name != "uid")])

    @property
    def _wanted_members(self) -> frozenset[str]:
        return frozenset({_JSON, *self.texts})

    def _picked(self, found: pa.Schema, uri: str) -> list[Pick]:
        mapping = self.columns if self.columns is not None else {name: name for name in _PLAIN if name in found.names}
        for ours, theirs in mapping.items():
            _check_mapping(ours, theirs, found, uri)
        picks = [Pick(mapping[name], pa.field(name, pa.string())) for name in _PLAIN if name in mapping]
        picks += [
            Pick(theirs, pa.field(ours, found.field(theirs).type)) for ours, theirs in mapping.items() if ours not in _PLAIN
        ]
        used = {name for name, _ in picks} | _DROPPED
        picks += [Pick(field.name, field) for field in _MEASURED if field.name in found.names and field.name not in used]
        used |= {name for name, _ in picks}
        taken = {ours.name.lower() for _, ours in picks} | {field.name for field in (*_FIXED, *REFERENCE)}
        for name in self.extra if self.extra is not None else found.names:
            if name not in found.names:
                raise ConfigError(
                    f"{uri} has no JSON field {name!r}, which input.extra names; fields: {', '.join(found.names)}"
                )
            if name not in used:
                used.add(name)
                ours = free_name(name, taken)
                taken.add(ours.lower())
                picks.append(Pick(name, pa.field(ours, found.field(name).type)))
        return picks

    def _table(self, batch: Sequence[Sample | Broken], uri: str) -> pa.Table:
        whole = [sample if isinstance(sample, Sample) else Sample(sample.key or "", {}) for sample in batch]
        wanted = pa.schema([(theirs, ours.type) for theirs, ours in self.picks])
        plain = frozenset(theirs for theirs, ours in self.picks if ours.name in _PLAIN)
        documents = [member.data if (member := sample.members.get(_JSON)) else None for sample in whole]
        objects = read_objects(documents, wanted, plain)
        columns: dict[str, Any] = {ours.name: objects.columns[theirs] for theirs, ours in self.picks}
        texts = [self._text(sample) for sample in whole]
        columns["caption"] = self._captions(columns.get("caption"), [text for text, _ in texts])
        columns |= places(whole, uri, self.images, self._carried)
        columns["source_key"] = [sample.key for sample in batch]
        failures: list[str | None] = []
        details: list[str | None] = []
        for n, sample in enumerate(batch):
            if isinstance(sample, Broken):
                failures.append(Failure.UNREADABLE_ROW.value)
                details.append(sample.detail)
                continue
            has_image = columns["image_path"][n] is not None
            failure, detail = _worst(sample, objects.failures[n], objects.details[n], texts[n][1], has_image)
            failures.append(failure.value if failure else None)
            details.append(f"{uri} sample {sample.key}: {detail}" if failure else None)
        arrays = [_array(columns.get(field.name), field.type, len(batch)) for field in self._own]
        table = joined(pa.table(arrays, schema=self._own), self._join)
        table = table.append_column(schema.FAILURE, pa.array(failures, pa.string()))
        return table.append_column(schema.FAILURE_DETAIL, pa.array(details, pa.string()))

    def _text(self, sample: Sample) -> tuple[str | None, bool]:
        """The caption's member, and whether it is not UTF-8."""
        for suffix in self.texts:
            member = sample.members.get(suffix)
            if member is not None and member.data is not None:
                try:
                    return member.data.decode(), False
                except UnicodeDecodeError:
                    return None, True
        return None, False

    def _captions(self, of_json: pa.Array | None, of_texts: list[str | None]) -> list[str | None]:
        """What is there of the two; where both are, the text, unless the config names the JSON's field."""
        if of_json is None:
            return of_texts
        pairs = zip(of_json.to_pylist(), of_texts, strict=True)
        if "caption" in (self.columns or {}):
            return [first if first is not None else second for first, second in pairs]
        return [second or first if first is not None or not second else second for first, second in pairs]

    def _carried(self, extension: str) -> bool:
        return extension not in self._wanted_members if self.members is None else extension in self.members


def _batches(found: Iterator[Sample | Broken]) -> Iterator[list[Sample | Broken]]:
    """So many samples, or so many bytes of text, at a time."""
    batch: list[Sample | Broken] = []
    size = 0
    for sample in found:
        batch.append(sample)
        if isinstance(sample, Sample):
            size += sum(len(member.data) for member in sample.members.values() if member.data)
        if len(batch) >= TABLE_ROWS or size >= TABLE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _worst(
    sample: Sample, failure: Failure | None, detail: str | None, undecodable: bool, has_image: bool
) -> tuple[Failure | None, str | None]:
    """What is wrong with a sample; `failure` and `detail` say what is wrong with its JSON."""
    if sample.problem:
        return Failure.UNREADABLE_ROW, sample.problem
    if failure is Failure.UNREADABLE_ROW:
        return failure, detail
    if not has_image:
        return Failure.MISSING_IMAGE, f"members: {', '.join(sample.members)}; input.images says which extensions are images"
    if undecodable and failure is None:
        return Failure.INVALID_TEXT, "the caption is not UTF-8"
    return failure, detail


def _array(values: Any, kind: pa.DataType, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _check_mapping(ours: str, theirs: str, found: pa.Schema, uri: str) -> None:
    if ours not in _PLAIN and ours.lower() in RESERVED:
        raise ConfigError(f"input.columns: {ours!r} is a column that pairsift writes itself; give it another name")
    if theirs not in found.names:
        raise ConfigError(f"{uri} has no JSON field {theirs!r} for {ours}; fields: {', '.join(found.names) or 'none'}")


def _json(sample: Sample) -> dict[str, Any] | str | None:
    """The sample's JSON object; or what is wrong with it; None where it has none."""
    member = sample.members.get(_JSON)
    return None if member is None or member.data is None else parse_object(member.data)
