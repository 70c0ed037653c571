"""From a config to steps with fingerprints: what depends on what, checked before anything runs.

A layer's fingerprint hashes what its values depend on: the stage, its version, its science parameters, its model's
identity, and the fingerprints of the layers whose columns it reads. Filters and selectors are in no fingerprint: they
are masks over the ledger.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pairsift.pipeline.config import Config, suggestion
from pairsift.pipeline.ledger.layers import Layer
from pairsift.stages import schema, sql
from pairsift.stages.base import ConfigError, Entry, Filter, Reader, Resources, Selector, Stage

Bundle = tuple[Resources, list["Step"]]
EMBEDDINGS = ("image_embedding", "text_embedding")  # with whatever `as` puts in front of it


@dataclass(frozen=True)
class Step:
    """One entry of the config, placed. `layer` is set for stages only; its columns carry the prefix of `as`."""

    index: int
    entry: Stage | Filter | Selector
    layer: Layer | None = None
    writes: pa.Schema = pa.schema([])  # what the transform returns, prefixed; may hold "image"

    @property
    def stage(self) -> Stage:
        assert isinstance(self.entry, Stage)
        return self.entry

    @property
    def label(self) -> str:
        """How messages, fates and the funnel call the step."""
        if isinstance(self.entry, Stage):
            return f"{self.entry.use} as {self.entry.as_}" if self.entry.as_ else self.entry.use
        return self.entry.label()

    @property
    def makes_images(self) -> bool:
        return schema.IMAGE.name in self.writes.names


@dataclass(frozen=True)
class Plan:
    """`steps` in the config's order; `intake` is layer 0, the input itself."""

    config: Config
    intake: Layer
    steps: tuple[Step, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.intake, *(step.layer for step in self.steps if step.layer))

    def segments(self) -> list[tuple[int, int]]:
        """[start, end) of the runs of row-local steps between selectors; each selector is a barrier."""
        cuts = [s.index for s in self.steps if isinstance(s.entry, Selector)]
        return list(zip([0, *(c + 1 for c in cuts)], [*cuts, len(self.steps)], strict=True))

    def layer_of(self, column: str) -> Layer:
        return next(layer for layer in self.layers if column in layer.columns or column == schema.ORDINAL.name)

    @property
    def packs(self) -> bool:
        """Whether there are images to pack; a job on metadata alone ends in its fates."""
        return any(schema.IMAGE_PATH.name in layer.columns for layer in self.layers)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The columns of vectors that are written beside the shards: all there are, where `shards.embeddings` asks for them."""
        if self.config.shards.embeddings is None:
            return ()
        return tuple(name for layer in self.layers for name in layer.columns if _is_embedding(layer.schema.field(name)))

    def cut_fingerprint(self) -> str:
        """What the output depends on beside the rows: every entry in order, and the shards' shape."""
        parts = [s.layer.name if s.layer else [s.entry.use, s.entry.science()] for s in self.steps]
        return fingerprint(self.intake.name, parts, self.config.shards.model_dump(mode="json"))


def fingerprint(*parts: Any) -> str:
    """20 hex digits over JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def make_plan(config: Config, intake: Layer | None = None) -> Plan:
    """Place and check every entry. Raises ConfigError for a missing column, a wrong type, a model that is none, …

    `intake` is layer 0 where it is known already, as for results whose input files may be gone.
    """
    if intake is None:
        with _told_where(f"input ({config.input.use})", config.input):
            config.input.check()
            intake = intake_layer(config.input)
    if config.shards.keys == "source" and schema.SOURCE_KEY.name not in intake.columns:
        raise ConfigError(f"shards.keys: source: {config.input.use} gives no keys of a dataset; leave it out")
    known: dict[str, Layer] = dict.fromkeys(intake.columns, intake)
    types = pa.schema([schema.ORDINAL, *(intake.schema.field(c) for c in intake.columns)])
    steps = []
    for index, entry in enumerate(config.stages):
        with _told_where(f"stages[{index}] ({entry.use})", entry):
            _check_columns(entry.reads(), known)
            entry.check()
            step, types = _place(index, entry, known, types)
        if step.layer:
            known |= dict.fromkeys(step.layer.columns, step.layer)
        steps.append(step)
    plan = Plan(config, intake, tuple(steps))
    if config.shards.embeddings and not plan.embeddings:
        raise ConfigError(f"shards.embeddings: no stage and no input gives {' or '.join(EMBEDDINGS)}; `embed` does")
    return plan


def intake_layer(reader: Reader) -> Layer:
    """Layer 0: key, uid and the reader's columns. Where the files lie is not part of its name; how they are read is."""
    given = [field for field in _stored(reader.schema()) if field.name not in (schema.KEY.name, schema.UID.name)]
    columns = pa.schema([schema.KEY, schema.UID, *given])
    mark = fingerprint(reader.use, reader.version, reader.science(), [[f.name, str(f.type)] for f in given])
    return Layer.of(f"input-{mark}", columns)


def _is_embedding(field: pa.Field) -> bool:
    return field.name.endswith(EMBEDDINGS) and bool(pa.types.is_fixed_size_list(field.type))


@contextmanager
def _told_where(place: str, entry: Entry) -> Iterator[None]:
    """Put the entry's place in the config in front of whatever is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {str(error).removeprefix(f'{entry.use}: ')}") from None


def _check_columns(reads: Iterable[str], known: dict[str, Layer]) -> None:
    for column in reads:
        available = {*known, "ordinal"} | ({"image"} if "image_path" in known else set())
        if column not in available:
            hint = suggestion(column, available)
            raise ConfigError(f"needs the column {column!r}, which nothing before it writes{hint}")


def _place(index: int, entry: Entry, known: dict[str, Layer], types: pa.Schema) -> tuple[Step, pa.Schema]:
    if isinstance(entry, Filter):
        sql.check_predicate(entry.predicate(), types)
        return Step(index, entry), types
    if isinstance(entry, Selector):
        for expression in entry.key():
            sql.typecheck(expression, types)
        return Step(index, entry), types
    assert isinstance(entry, Stage)
    prefix = f"{entry.as_}_" if entry.as_ else ""
    writes = _prefixed(entry.writes(), prefix)
    layer = Layer.of(f"{prefix}{entry.use}-{_stage_fingerprint(entry, known)}", _stored(writes))
    for column in layer.columns:
        if column in known:
            raise ConfigError(f"writes the column {column!r}, which is there already; give this stage a prefix with `as: NAME`")
    return Step(index, entry, layer, writes), pa.schema([*types, *(layer.schema.field(c) for c in layer.columns)])


def _prefixed(writes: pa.Schema, prefix: str) -> pa.Schema:
    """A row has one image: its bytes and its format go by no other name."""
    kept = {"image", "image_format"} if "image" in writes.names else set()
    return pa.schema([field if field.name in kept else field.with_name(prefix + field.name) for field in writes])


def _stored(writes: pa.Schema) -> pa.Schema:
    """What a layer keeps of what a stage or a reader gives: a reference in place of the image's bytes."""
    if schema.IMAGE.name not in writes.names:
        return writes
    places = (schema.IMAGE_PATH, schema.IMAGE_OFFSET, schema.IMAGE_LENGTH)
    rest = [field for field in writes if field.name not in {schema.IMAGE.name, *(place.name for place in places)}]
    return pa.schema([*places, *rest])


def _stage_fingerprint(stage: Stage, known: dict[str, Layer]) -> str:
    sources = (known["image_path" if column == "image" else column] for column in stage.reads() if column != "ordinal")
    names = sorted({layer.name for layer in sources})
    return fingerprint(stage.use, stage.version, stage.science(), stage.identity(), names)
