"""Several captions of one image, as COCO and Flickr30k have them: a row for each, or all of them in one row."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.stages import schema

Mode = Literal["rows", "list"]
LISTED = "pairsift captions"  # where all captions are while a table has its source's column names: no source has it


def is_list_of_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds several captions in a row."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)))


def spread_table(table: pa.Table, column: str, mode: Mode) -> pa.Table:
    """A table whose `column` holds lists of text, with text there instead.

    rows: each row as often as it has captions, one of them in each. list: the first in `column`, and all in LISTED. A row
    without captions is one row with a null.
    """
    lists = table[column].combine_chunks().cast(schema.CAPTIONS.type)
    if mode == "list":
        first = pc.list_element(_with_one_at_least(lists), 0)
        table = table.set_column(table.column_names.index(column), column, first)
        return table.append_column(LISTED, lists)
    lists = _with_one_at_least(lists)
    parents = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    flat = lists.flatten()
    return table.take(pa.array(parents)).set_column(table.column_names.index(column), pa.field(column, pa.string()), flat)


def _with_one_at_least(lists: pa.ListArray) -> pa.ListArray:
    empty = pc.fill_null(pc.equal(pc.list_value_length(lists), 0), fill_value=True)
    return pc.if_else(empty, pa.scalar([None], schema.CAPTIONS.type), lists)


def spread_record(record: dict[str, Any], field: str, mode: Mode) -> list[dict[str, Any]]:
    """The same for a JSON object. What is no list is left as it is."""
    found = record.get(field)
    if not isinstance(found, list):
        return [record]
    if mode == "list":
        return [record | {field: found[0] if found else None, LISTED: found}]
    return [record | {field: caption} for caption in found] or [record | {field: None}]


def listed(table: pa.Table, column: str | None) -> pa.Array:
    """All captions of each row, after `spread_table` or not: of one that had no list, the one that it has."""
    lists = table[LISTED].combine_chunks() if LISTED in table.column_names else pa.nulls(len(table), schema.CAPTIONS.type)
    if column is None:
        return lists
    single = table[column].combine_chunks().cast(pa.string())
    places = pa.array(
        range(len(single) + 1), pa.int32(), mask=np.append(single.is_null().to_numpy(zero_copy_only=False), False)
    )
    return pc.coalesce(lists, pa.ListArray.from_arrays(places, single))
