"""JSON Lines as tables: one object per line, with column types found by looking at the first lines.

A column whose values are all numbers, or all true or false, is int64, double or bool; text is string; anything else
(objects, lists, mixed kinds, integers beyond 64 bits) is a string that holds the value's JSON.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.json_documents import json_records
from pairsift.stages.read.formats.lines import Line, TableBuilder, clean, lines

Spread = Callable[[dict[str, Any]], list[dict[str, Any]]]

SAMPLE_LINES = 1000  # lines looked at for names and types; a key that comes up only later is not carried


class MisfitError(Exception):
    """A value that its column cannot hold. Says what was found."""


class InvalidTextError(Exception):
    """Text with half a surrogate pair, which is not Unicode and cannot be stored."""


def jsonl_columns(uri: str) -> pa.Schema:
    """Names in order of first appearance, and types, from the first SAMPLE_LINES lines."""
    return typed_columns(parsed for line in islice(lines(uri), SAMPLE_LINES) if isinstance(parsed := _parsed(line), dict))


def typed_columns(objects: Iterable[dict[str, Any]]) -> pa.Schema:
    """A column for every key of these JSON objects, of the narrowest type that holds all its values; of nulls only: string."""
    kinds: dict[str, set[str]] = {}
    for found in objects:
        for name, value in found.items():
            kind = _kind(value)
            kinds.setdefault(name, set()).update({kind} if kind else ())
    return pa.schema([(name, _type(found)) for name, found in kinds.items() if _storable(name)])


def jsonl_tables(uri: str, wanted: pa.Schema, plain: frozenset[str], spread: Spread) -> Iterator[pa.Table]:
    """The columns `wanted`, then `failure` and `failure_detail`. A missing key is null. Blank lines are no rows. `spread` gives
    the rows that an object stands for.

    A line that is no JSON object is an `unreadable_row`. So is one with a value that its column cannot hold (text in a column
    of numbers): nothing is turned into null unseen; its other columns are given. The columns `plain` (URL and caption) take
    text and numbers only. A string column takes any other value as its JSON.
    """
    builder = TableBuilder(wanted)
    for line in lines(uri):
        if not line.text.strip() and not line.failure:
            continue
        found = _parsed(line)
        if isinstance(found, str):
            yield from builder.add(None, Failure.UNREADABLE_ROW, line.detail or f"line {line.number}: {found}")
            continue
        for record in spread(found):
            values, failure, detail = fitted(record, wanted, plain)
            if line.failure:
                values = [clean(value) if isinstance(value, str) else value for value in values]
                failure, detail = line.failure, line.detail
            elif detail:
                detail = f"line {line.number}: {detail}"
            yield from builder.add(values, failure, detail, len(line.text))
    yield from builder.rest()


def json_columns(uri: str) -> pa.Schema:
    """The same as `jsonl_columns` for a file that `json_records` reads."""
    return typed_columns(record for record in islice(json_records(uri), SAMPLE_LINES) if isinstance(record, dict))


def json_tables(uri: str, wanted: pa.Schema, plain: frozenset[str], spread: Spread) -> Iterator[pa.Table]:
    """The same as `jsonl_tables` for a file that `json_records` reads."""
    builder = TableBuilder(wanted)
    for number, found in enumerate(json_records(uri), 1):
        if isinstance(found, str):
            yield from builder.add(None, Failure.UNREADABLE_ROW, found)
            continue
        for record in spread(found):
            values, failure, detail = fitted(record, wanted, plain)
            size = sum(len(value) for value in values if isinstance(value, str))
            yield from builder.add(values, failure, f"{uri} object {number}: {detail}" if failure else None, size)
    yield from builder.rest()


def fitted(
    found: dict[str, Any], wanted: pa.Schema, plain: frozenset[str] = frozenset()
) -> tuple[list[Any], Failure | None, str | None]:
    """The values of one JSON object in the columns `wanted`; and the worst that is wrong with them, if anything."""
    values: list[Any] = []
    failure: Failure | None = None
    detail: str | None = None
    for field in wanted:
        try:
            values.append(_fit(found.get(field.name), field.type, field.name in plain))
        except MisfitError as misfit:
            values.append(None)
            failure, detail = Failure.UNREADABLE_ROW, f"{field.name}: {misfit}"
        except InvalidTextError:
            values.append(None)
            if failure is None:
                failure, detail = Failure.INVALID_TEXT, f"{field.name}: half a surrogate pair"
    return values, failure, detail


def parse_object(text: str | bytes) -> dict[str, Any] | str:
    """The JSON object, or what is wrong."""
    try:
        found = json.loads(text)
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    return found if isinstance(found, dict) else f"not a JSON object but {_named(found)}"


def _parsed(line: Line) -> dict[str, Any] | str:
    if line.failure is Failure.UNREADABLE_ROW:
        return line.detail or ""
    return parse_object(line.text)


def _kind(value: Any) -> str | None:
    """bool, int, float, string or json; None of null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if _fits_int64(value) else "json"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else "json"


def _type(kinds: set[str]) -> pa.DataType:
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"int"}:
        return pa.int64()
    if kinds and kinds <= {"int", "float"}:
        return pa.float64()
    return pa.string()


def _fit(value: Any, kind: pa.DataType, plain: bool) -> Any:
    """The value as a column of this type holds it. Raises MisfitError, InvalidTextError."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return _fit_string(value, plain)
    if pa.types.is_list(kind) and isinstance(value, list):
        return [None if item is None else _fit_string(item, plain=True) for item in value]
    if pa.types.is_boolean(kind):
        if isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if pa.types.is_floating(kind):
            return _fit_float(value)
        if _fits(value, kind):
            return int(value)
    raise MisfitError(f"expected {kind}, got {_named(value)}")


def _fit_string(value: Any, plain: bool) -> str:
    if isinstance(value, str):
        if not _storable(value):
            raise InvalidTextError
        return value
    if plain and isinstance(value, (bool, list, dict)):
        raise MisfitError(f"expected text, got {_named(value)}")
    return json.dumps(value)


def _fit_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise MisfitError("a number beyond double") from error


def _fits(value: float, kind: pa.DataType) -> bool:
    limit = 1 << (kind.bit_width - 1)
    return -limit <= value < limit and int(value) == value  # NaN and infinity fail the first


def _fits_int64(value: int) -> bool:
    return -(1 << 63) <= value < (1 << 63)


def _storable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(value: Any) -> str:
    """What kind of JSON value it is."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]
