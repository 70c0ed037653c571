"""`read.union`: several datasets in one run, each read in its own way, told apart by the column `source` (as PMD is made)."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from pairsift.stages import schema
from pairsift.stages.base import ConfigError, Reader, Source

_STAGES = __name__.removesuffix(".read.union")
_FAILURES = (schema.FAILURE, schema.FAILURE_DETAIL)
_SOURCE = pa.field("source", pa.string())  # the part's name; never null
_FIRST = (schema.URL, schema.CAPTION, _SOURCE)


def _reader(entry: Any) -> Any:
    """The reader that a mapping with `use` names. Raises ValueError, one line, for whatever is wrong with it."""
    if not isinstance(entry, Mapping):
        return entry
    use = str(entry.get("use", ""))
    cls = _class(use)
    if cls is None or cls is Union:
        raise ValueError(f"use: {use!r} is no reader that can be a part, such as read.urls")
    try:
        return cls.model_validate(dict(entry))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{use}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _class(use: str) -> type[Reader] | None:
    """The one reader of a module under pairsift.stages, or else of a module of the user's."""
    if not all(part.isidentifier() for part in use.split(".")):
        return None
    for name in (f"{_STAGES}.{use}", use):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                continue
            raise
        values = [value for value in vars(module).values() if isinstance(value, type) and value.__module__.startswith(name)]
        readers = [value for value in values if issubclass(value, Reader) and not value.__name__.startswith("_")]
        return readers[0] if len(readers) == 1 else None
    return None


class Union(Reader):
    """Rows of several readers, one after the other, with the name of each row's part in `source`.

    Gives `url`, `caption`, `source`, and the columns of all parts in the order in which they come up; null where a part has no
    such column. Numbers of several kinds become the wider one. A part's own column `source` is carried as `source_source`.
    Lists of URLs go with lists of URLs, and datasets with images with their like: rows without images cannot be told to
    download in a run whose other rows have them.
    """

    parts: dict[str, Annotated[SerializeAsAny[Reader], BeforeValidator(_reader)]] = Field(
        min_length=1,
        description="name: reader, such as {coco: {use: read.urls, preset: coco, path: …}, cc12m: {…}}; unit_rows of the "
        "parts means nothing",
    )

    def science(self) -> dict[str, Any]:
        parts = [[name, part.use, part.version, part.science() | {"unit_rows": None}] for name, part in self.parts.items()]
        return super().science() | {"parts": parts}

    def check(self) -> None:
        for name, part in self.parts.items():
            try:
                part.check()
            except ConfigError as error:
                raise ConfigError(f"parts.{name} ({part.use}): {error}") from None
        self.sources()
        self.schema()

    def sources(self) -> list[Source]:
        self._owners.clear()
        found: list[Source] = []
        for name, part in self.parts.items():
            for source in part.sources():
                if source.uri in self._owners:
                    raise ConfigError(f"parts.{name}: {source.uri} is in parts.{self._owners[source.uri]}, too")
                self._owners[source.uri] = name
                found.append(source)
        return found

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        types: dict[str, pa.DataType] = {field.name: field.type for field in _FIRST}
        for name, part in self.parts.items():
            for field in map(_renamed, part.schema()):
                known = types.get(field.name, field.type)
                common = _common(known, field.type)
                if common is None:
                    raise ConfigError(
                        f"parts.{name}: the column {field.name!r} is {field.type}, and {known} in a part before it; rename it "
                        "with columns, or leave it out with extra"
                    )
                types[field.name] = common
        return pa.schema(types)

    def read(self, source: Source) -> Iterator[pa.Table]:
        if source.uri not in self._owners:
            self.sources()
        name = self._owners[source.uri]
        fields = pa.schema([*self.schema(), *_FAILURES])
        for table in self.parts[name].read(source):
            given = {_renamed(field).name: table.column(place) for place, field in enumerate(table.schema)}
            given[_SOURCE.name] = pa.repeat(pa.scalar(name, _SOURCE.type), len(table))
            arrays = [given[f.name].cast(f.type) if f.name in given else pa.nulls(len(table), f.type) for f in fields]
            yield pa.table(arrays, schema=fields)

    @cached_property
    def _owners(self) -> dict[str, str]:
        """Which part a source is of."""
        return {}


def _renamed(field: pa.Field) -> pa.Field:
    return field.with_name("source_source") if field.name == _SOURCE.name else field


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type that holds the values of both, or None."""
    if one == other:
        return one
    texts = (pa.string(), pa.large_string())
    if one in texts and other in texts:
        return pa.large_string()
    numbers = [kind for kind in (one, other) if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    if len(numbers) < 2:
        return None
    return pa.int64() if all(map(pa.types.is_signed_integer, numbers)) else pa.float64()
