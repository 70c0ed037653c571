"""What a row says of its image beside the URL: the hash that the body must have, and the boxes to blur."""

import hashlib
import json
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from pairsift.stages.base import ConfigError
from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.blur import Box
from pairsift.stages.pixels.coding import ImageError

HashName = Literal["md5", "sha256", "sha512"]

_FARTHEST = 2.0  # detectors put boxes a little beyond the edges; what lies farther out than this is no fraction of an image


class Wanted(NamedTuple):
    """One row's expectations as its columns state them."""

    digest: str | None = None
    boxes: Any = None  # a list of lists of four numbers, or None: nothing to blur


NOTHING = Wanted()


def wanted_of(table: pa.Table, hash_column: str | None, box_column: str | None) -> list[Wanted]:
    """One per row. Boxes may be JSON text, as readers of JSON give lists. Raises ConfigError where a column is of a type that
    can hold no hashes, or no boxes."""
    digests = boxes = [None] * len(table)
    if hash_column is not None:
        digests = _typed(table, hash_column, _is_text, "verify_hash", "text").to_pylist()
    if box_column is not None:
        column = _typed(table, box_column, _is_boxes, "bbox_col", "lists of [left, top, right, bottom]")
        boxes = list(map(_from_json, column.to_pylist())) if _is_text(column.type) else column.to_pylist()
    return [Wanted(*row) for row in zip(digests, boxes, strict=True)]


def hex_digest(body: bytes, name: HashName) -> str:
    """The hash in hexadecimal, lower case."""
    return hashlib.new(name, body, usedforsecurity=False).hexdigest()


def check_hash(body: bytes, name: HashName, expected: str | None) -> None:
    """Raises FetchError(HASH_MISMATCH), also where the row has no hash: what cannot be verified is not let through."""
    found = hex_digest(body, name)
    if expected is None or found != expected.strip().lower():
        raise FetchError(Failure.HASH_MISMATCH, f"{len(body)} bytes whose {name} is {found}")


def boxes_of(value: Any) -> list[Box]:
    """Boxes as a column holds them. Raises ImageError(INVALID_BOXES): an image is not stored with a face that was to be
    blurred and could not be."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(_is_box, value)):
        raise ImageError(
            Failure.INVALID_BOXES, f"not a list of [left, top, right, bottom] in fractions of the sides: {value!r:.100}"
        )
    return [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in value]


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    fractions = all(isinstance(number, int | float) and abs(number) <= _FARTHEST for number in box)
    return fractions and box[0] <= box[2] and box[1] <= box[3]


def _from_json(text: str | None) -> Any:
    """What is no JSON stays what it is, and is no boxes."""
    if text is None or not text.strip():  # CSV has no null
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _typed(table: pa.Table, name: str, fits: Any, parameter: str, wanted: str) -> pa.ChunkedArray:
    column = table.column(name)
    if not fits(column.type):
        raise ConfigError(f"download.{parameter}: the column {name!r} is {column.type}; it must hold {wanted}")
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _is_boxes(kind: pa.DataType) -> bool:
    if _is_text(kind):
        return True
    if not _is_list(kind) or not (_is_list(kind.value_type) or pa.types.is_null(kind.value_type)):
        return False
    inner = kind.value_type
    number = inner.value_type if _is_list(inner) else inner
    return bool(pa.types.is_floating(number) or pa.types.is_integer(number) or pa.types.is_null(number))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
