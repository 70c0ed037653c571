"""Which columns of a source become which columns of ours."""

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from pairsift.stages import schema
from pairsift.stages.base import ConfigError

# Names that pairsift gives columns itself, in the ledger or in its output. Compared without case, as SQL does.
RESERVED = frozenset(
    {value.name for value in vars(schema).values() if isinstance(value, pa.Field)}
    | {
        "status",
        "error_message",
        "rejected_by",
        "score",
        "duplicate_of",
        "shard",
        "generation",
        "unit",
        "image_embedding",
        "text_embedding",
    }
)
_MAPPABLE = frozenset({"url", "caption", "uid"})

# Columns that people call so, in the order in which they are proposed. Only ever proposed, never taken unasked.
_LIKELY = {
    "url": ("url", "image_url", "img_url", "imageurl", "image_link", "link", "uri", "src", "photo_image_url"),
    "caption": ("caption", "text", "top_caption", "alt_text", "alttext", "alt", "txt", "title", "description", "prompt"),
}


class Pick(NamedTuple):
    """One column: what it is called in the source, and the field we make of it."""

    theirs: str
    field: pa.Field


def pick(
    found: pa.Schema, mapping: Mapping[str, str] | None, extra: Sequence[str] | None, uri: str, *, needs_url: bool = True
) -> list[Pick]:
    """The columns to take from a source that has the columns `found`: url and caption first, then the extras in its order.

    Without a mapping, `url` must be there (if `needs_url`) and `caption` may be. An extra keeps its name, or is called
    `source_NAME` where pairsift has a column of that name, whatever the case. `extra` None means all.

    Raises:
        ConfigError: for a column that is not there, is there twice, or is not text where it must be.
    """
    wanted = dict(mapping) if mapping is not None else _default_mapping(found, uri, needs_url)
    _check_mapping(wanted, found, uri, needs_url)
    picks = [Pick(wanted[name], pa.field(name, pa.string())) for name in ("url", "caption", "uid") if name in wanted]
    taken = {"url", "caption"} | {name.lower() for name in wanted}
    for name in (n for n in wanted if n not in _MAPPABLE):
        picks.append(Pick(wanted[name], pa.field(name, plain_type(found.field(wanted[name]).type))))
    for name in _extras(found, wanted, extra, uri):
        ours = free_name(name, taken)
        taken.add(ours.lower())
        picks.append(Pick(name, pa.field(ours, plain_type(found.field(name).type))))
    return picks


def free_name(name: str, taken: set[str]) -> str:
    """The name, with `source_` before it until it is neither RESERVED nor in `taken` (lower case)."""
    while name.lower() in RESERVED or name.lower() in taken:
        name = f"source_{name}"
    return name


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Types that differ from file to file though the column is the same: a dictionary becomes its values, and a column that
    is all null in the first file is text."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return pa.string() if pa.types.is_null(kind) or pa.types.is_string_view(kind) else kind


def require(found: pa.Schema, picks: Sequence[Pick], uri: str) -> None:
    """Raise ConfigError where a later file lacks the URL or caption column that the first had, or has it as another type."""
    for theirs, field in picks:
        if field.name in _MAPPABLE:
            _check_column(found, field.name, theirs, uri)


def _default_mapping(found: pa.Schema, uri: str, needs_url: bool) -> dict[str, str]:
    if needs_url and "url" not in found.names:
        raise ConfigError(f"{uri} has no column 'url'; {_suggestion(found)}")
    return {name: name for name in ("url", "caption") if name in found.names}


def _check_mapping(wanted: Mapping[str, str], found: pa.Schema, uri: str, needs_url: bool) -> None:
    if needs_url and "url" not in wanted:
        raise ConfigError(f"input.columns must say which column is the url; {_suggestion(found)}")
    for ours, theirs in wanted.items():
        if ours not in _MAPPABLE and ours.lower() in RESERVED:
            raise ConfigError(f"input.columns: {ours!r} is a column that pairsift writes itself; give it another name")
        _check_column(found, ours, theirs, uri)


def _check_column(found: pa.Schema, ours: str, theirs: str, uri: str) -> None:
    indices = found.get_all_field_indices(theirs)
    if not indices:
        near = difflib.get_close_matches(theirs, found.names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{uri} has no column {theirs!r} for {ours}{hint}; {_suggestion(found)}")
    if len(indices) > 1:
        raise ConfigError(f"{uri} has the column {theirs!r} {len(indices)} times; {ours} needs it once")
    if ours in _MAPPABLE and not _is_text(plain_type(found.field(theirs).type)):
        raise ConfigError(f"{uri}: the column {theirs!r} for {ours} is {found.field(theirs).type}, not text")


def _extras(found: pa.Schema, wanted: Mapping[str, str], extra: Sequence[str] | None, uri: str) -> list[str]:
    used = set(wanted.values())
    names = [name for name in found.names if name not in used] if extra is None else list(dict.fromkeys(extra))
    for name in names:
        count = len(found.get_all_field_indices(name))
        if count == 0:
            raise ConfigError(f"{uri} has no column {name!r}, which input.extra names; columns: {', '.join(found.names)}")
        if count > 1:
            raise ConfigError(
                f"{uri} has the column {name!r} {count} times; leave it out with input.extra: [the columns to carry]"
            )
    return [name for name in names if name not in used]


def _suggestion(found: pa.Schema) -> str:
    """The columns there are and, where they can be guessed, the line for the config that is right."""
    by_lower = {name.lower(): name for name in reversed(found.names)}
    guess = {ours: by_lower[name] for ours, likely in _LIKELY.items() for name in reversed(likely) if name in by_lower}
    line = ", ".join(f"{ours}: {guess[ours]}" for ours in _LIKELY if ours in guess) if "url" in guess else "url: …, caption: …"
    return f"its columns are {', '.join(found.names) or 'none'}; say which with columns: {{{line}}}"


def _is_text(kind: pa.DataType) -> bool:
    """Binary too: older writers leave the mark of text off Parquet's strings."""
    return kind in {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}
