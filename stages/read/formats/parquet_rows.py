"""Parquet files as streams of small tables, whatever the size of their row groups."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.columns import plain_type
from pairsift.stages.sources import READ_BUFFER, open_arrow

MAX_ROWS = 10_000  # rows per table
MAX_BYTES = 64 << 20  # uncompressed bytes per table, by the row group's average

# Arrow before 26 cannot read a column of fixed-size lists that has a null in it (apache/arrow#35692).
_READS_NULL_FIXED_LISTS = int(pa.__version__.split(".")[0]) >= 26


def parquet_columns(uri: str) -> pa.Schema:
    """The columns, from the footer. Raises ConfigError where the file is not Parquet."""
    with open_arrow(uri) as file:
        return _opened(file, uri).schema_arrow


def parquet_tables(uri: str, wanted: Sequence[str], text: frozenset[str]) -> Iterator[pa.Table]:
    """The columns `wanted` (those that are there; at least one is), then `failure` and `failure_detail`.

    The columns `text` are strings even where the file says binary; dictionaries are given as their values. Cells with
    bytes that are not UTF-8 become null and their row an `invalid_text`. Where a row group is damaged, the rest of its rows
    are `unreadable_row`, and reading goes on with the next. Where Arrow is older than 26 and a column has fixed-size lists,
    they are lists, and columns have the types of Parquet, which may be wider than those of `parquet_columns`.
    """
    with open_arrow(uri) as file:
        parquet = _opened(file, uri)
        found = parquet.schema_arrow
        columns = [name for name in wanted if name in found.names]
        if not _READS_NULL_FIXED_LISTS and any(_holds_fixed_lists(found.field(name).type) for name in columns):
            parquet = _opened_without_arrow_types(file)
        for group in range(parquet.metadata.num_row_groups):
            yield from _group_tables(parquet, group, columns, text, uri)


def _opened(file: Any, uri: str) -> pq.ParquetFile:
    # Without a buffer, and with pre_buffer, Arrow would load each column of a row group whole.
    try:
        return pq.ParquetFile(file, buffer_size=READ_BUFFER, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{uri} is not a Parquet file: {' '.join(str(error).split())}") from error


def _holds_fixed_lists(kind: pa.DataType) -> bool:
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return pa.types.is_fixed_size_list(kind) or any(map(_holds_fixed_lists, inner))


def _opened_without_arrow_types(file: Any) -> pq.ParquetFile:
    """The file with Parquet's own types: it knows lists, and that they have a fixed size stands only in Arrow's schema, in the
    footer's metadata, where Arrow does not find it under another name."""
    size = file.size()
    length = int.from_bytes(file.read_at(8, size - 8)[:4], "little")
    footer = file.read_at(length + 8, size - 8 - length).replace(b"ARROW:schema", b"arrow-schema")
    metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
    return pq.ParquetFile(file, metadata=metadata, buffer_size=READ_BUFFER, pre_buffer=False)


def _group_tables(
    parquet: pq.ParquetFile, group: int, columns: list[str], text: frozenset[str], uri: str
) -> Iterator[pa.Table]:
    meta = parquet.metadata.row_group(group)
    rows = max(1, min(MAX_ROWS, MAX_BYTES * meta.num_rows // max(1, meta.total_byte_size)))
    given = 0
    try:
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
            # A column named "a" also brings in one named "a.b": hence the selection.
            yield _checked(batch.select(columns), text, uri, group, given)
            given += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        # Arrow raises a bare OSError for damaged pages; what comes from the system or the network has a number or a class.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        detail = f"{uri} row group {group}: {' '.join(str(error).split())}"
        yield from _unreadable(parquet.schema_arrow, columns, meta.num_rows - given, detail)


def _unreadable(found: pa.Schema, columns: list[str], rows: int, detail: str) -> Iterator[pa.Table]:
    for start in range(0, rows, MAX_ROWS):
        count = min(MAX_ROWS, rows - start)
        table = pa.table({name: pa.nulls(count, plain_type(found.field(name).type)) for name in columns})
        yield _with_failures(table, [Failure.UNREADABLE_ROW.value] * count, [detail] * count)


def _with_failures(table: pa.Table, failures: Sequence[str | None], details: Sequence[str | None]) -> pa.Table:
    table = table.append_column(schema.FAILURE, pa.array(failures, schema.FAILURE.type))
    return table.append_column(schema.FAILURE_DETAIL, pa.array(details, schema.FAILURE_DETAIL.type))


def _checked(batch: pa.RecordBatch, text: frozenset[str], uri: str, group: int, first: int) -> pa.Table:
    """Arrow does not look whether text in a Parquet file is UTF-8; what comes after would fail on it."""
    failures: list[str | None] = [None] * batch.num_rows
    details: list[str | None] = [None] * batch.num_rows
    columns: dict[str, pa.Array] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        plain = _plain(column, is_text=name in text)
        bad = _invalid_rows(plain)
        columns[name] = _nulled(plain, bad) if bad else plain
        for row in bad:
            failures[row] = Failure.INVALID_TEXT.value
            details[row] = f"{uri} row group {group} row {first + row}: {name} is not UTF-8"
    return _with_failures(pa.table(columns), failures, details)


def _plain(column: pa.Array, *, is_text: bool) -> pa.Array:
    """A dictionary's values; and as text, unchecked, what the file calls binary though it is text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text and pa.types.is_binary(column.type):
        return column.view(pa.string())
    if is_text and pa.types.is_large_binary(column.type):
        return column.view(pa.large_string())
    return column


def _invalid_rows(column: pa.Array) -> list[int]:
    if _valid(column):
        return []
    return [row for row in range(len(column)) if not _valid(column.take(pa.array([row])))]


def _valid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _nulled(column: pa.Array, rows: list[int]) -> pa.Array:
    """The column with nulls in these rows, whatever its type."""
    gone = set(rows)
    return column.take(pa.array([None if row in gone else row for row in range(len(column))], pa.int64()))
