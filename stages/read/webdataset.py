"""`read.webdataset`: samples of existing tars, by reference; their image bytes are never decoded or copied."""

from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from braceexpand import braceexpand
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Reader, Source
from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.columns import Pick, free_name
from pairsift.stages.read.formats.jsonlines import fitted, parse_object, typed_columns
from pairsift.stages.read.formats.lines import TableBuilder
from pairsift.stages.read.formats.tars import Broken, Sample, samples
from pairsift.stages.sources import list_sources

SAMPLE_SAMPLES = 100  # samples looked at for the names and types of JSON fields

_TEXTS = frozenset({"txt", "json"})
_PLAIN = frozenset({"url", "caption", "uid"})
# What an earlier run measured, with the types that stages write.
_MEASURED = (schema.WIDTH, schema.HEIGHT, schema.ORIGINAL_WIDTH, schema.ORIGINAL_HEIGHT, schema.EXIF, schema.SHA256)
# An earlier run's bookkeeping: the key is in source_key, and what is in a tar was a success.
_DROPPED = frozenset({"key", "status", "error_message"})
_FIXED = (schema.URL, schema.CAPTION)
_REFERENCE = (pa.field("source_key", pa.string()), *schema.IMAGE_REFERENCE)


class Webdataset(Reader):
    """Samples of webdataset tars (img2dataset's, DataComp's, or anybody's), with their images left where they are.

    Gives `url` (of the JSON), `caption` (of the .txt, or where that is missing or empty, of the JSON), `uid` if the JSON has
    one, `source_key`, the image's place (`image_path`, `image_offset`, `image_length`, `image_format`), what the JSON says of
    width, height, original_width, original_height, exif and sha256, and its other fields with types found by looking at the
    first 100 samples; lists and objects are carried as JSON text. A field that is called like a column of pairsift's own is
    carried as `source_NAME`; key, status and error_message are left out.

    Every sample is a row. One without an image is `missing_image`; one whose JSON cannot be parsed or does not fit its columns
    `unreadable_row`; one whose text is not UTF-8 `invalid_text`. A damaged tar gives the samples before the damage, then one
    `unreadable_row` for all that follows.
    """

    path: Annotated[str | list[str], OPERATIONAL] = Field(
        description="a tar, a folder of tars, a glob, a brace pattern ({00000..00099}.tar), any fsspec URL, or a list of these"
    )
    images: list[str] = Field(
        ["jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff"],
        min_length=1,
        description="extensions of image members; the first of these that a sample has is its image",
    )
    extra: list[str] | None = Field(None, description="other JSON fields to carry along; default: all")

    def check(self) -> None:
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        paths = [self.path] if isinstance(self.path, str) else self.path
        sources = list_sources(list(chain.from_iterable(_expanded(path) for path in paths)), ["tar"])
        for source in sources:
            if not source.uri.lower().split("?")[0].endswith(".tar"):
                raise ConfigError(f"{source.uri} is not a .tar: images are referred to by their place in an uncompressed tar")
        return sources

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        named = [ours for _, ours in self.picks if ours.name not in ("url", "caption")]
        uid = [field for field in named if field.name == "uid"]
        return pa.schema([*_FIXED, *uid, *_REFERENCE, *(field for field in named if field.name != "uid")])

    def read(self, source: Source) -> Iterator[pa.Table]:
        fields = self.schema()
        builder = TableBuilder(fields)
        wanted = pa.schema([(name, ours.type) for name, ours in self.picks])
        for sample in samples(source.uri, _TEXTS):
            if isinstance(sample, Broken):
                row: dict[str, Any] = {"source_key": sample.key}
                yield from builder.add([row.get(name) for name in fields.names], Failure.UNREADABLE_ROW, sample.detail)
            else:
                row, failure, detail = self._row(sample, wanted, source.uri)
                size = sum(len(member.data or b"") for member in sample.members.values())
                yield from builder.add([row.get(name) for name in fields.names], failure, detail, size)
        yield from builder.rest()

    @cached_property
    def picks(self) -> list[Pick]:
        """JSON fields and the columns they become, by the first samples of the first tar that has any."""
        for source in self.sources():
            try:
                first = [s for s in islice(samples(source.uri, _TEXTS), SAMPLE_SAMPLES) if isinstance(s, Sample)]
            except OSError as error:
                raise ConfigError(f"cannot read {source.uri}: {' '.join(str(error).split())}") from error
            if first:
                found = typed_columns(parsed for s in first if isinstance(parsed := _json(s), dict))
                return self._picked(found, source.uri)
        return self._picked(pa.schema([]), "")

    def _picked(self, found: pa.Schema, uri: str) -> list[Pick]:
        picks = [
            Pick(field.name, field) for field in (*_FIXED, pa.field("uid", pa.string())) if field.name in (*found.names, "url")
        ]
        picks += [Pick(field.name, field) for field in _MEASURED if field.name in found.names]
        used = {name for name, _ in picks} | _DROPPED
        taken = {name.lower() for name, _ in picks} | {field.name for field in _REFERENCE}
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

    def _row(self, sample: Sample, wanted: pa.Schema, uri: str) -> tuple[dict[str, Any], Failure | None, str | None]:
        """One sample's values by our names, and the worst that is wrong with it."""
        parsed = _json(sample)
        found = parsed if isinstance(parsed, dict) else {}
        values, failure, detail = fitted(found, wanted, _PLAIN)
        row: dict[str, Any] = {ours.name: value for (_, ours), value in zip(self.picks, values, strict=True)}
        row["source_key"] = sample.key
        text, undecodable = _text(sample)
        row["caption"] = None if undecodable else text or (row.get("caption") if "caption" in found else text)
        suffix = next((suffix for suffix in self.images if suffix in sample.members), None)
        if suffix is not None:
            image = sample.members[suffix]
            row |= {"image_path": uri, "image_offset": image.offset, "image_length": image.length}
            row["image_format"] = "jpg" if suffix == "jpeg" else suffix
        unreadable = sample.problem or (parsed if isinstance(parsed, str) else None)
        if unreadable:
            failure, detail = Failure.UNREADABLE_ROW, unreadable
        elif suffix is None and failure is not Failure.UNREADABLE_ROW:
            failure, detail = Failure.MISSING_IMAGE, f"members: {', '.join(sample.members)}"
        elif undecodable and failure is None:
            failure, detail = Failure.INVALID_TEXT, "the .txt is not UTF-8"
        return row, failure, f"{uri} sample {sample.key}: {detail}" if failure else None


def _json(sample: Sample) -> dict[str, Any] | str | None:
    """The sample's JSON object; or what is wrong with it; None where it has none."""
    member = sample.members.get("json")
    return None if member is None or member.data is None else parse_object(member.data)


def _text(sample: Sample) -> tuple[str | None, bool]:
    """The .txt member, and whether it is not UTF-8."""
    member = sample.members.get("txt")
    if member is None or member.data is None:
        return None, False
    try:
        return member.data.decode(), False
    except UnicodeDecodeError:
        return None, True


def _expanded(path: str) -> list[str]:
    """What a brace pattern stands for, as in webdataset. A file that is called so is taken by its name."""
    if "{" not in path or ("://" not in path and Path(path).exists()):
        return [path]
    try:
        return list(braceexpand(path))
    except ValueError as error:
        raise ConfigError(f"{path} has braces that do not match") from error
