"""How Parquet is written that people ask DuckDB about."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def parquet_options(schema: pa.Schema, dictionaries: Sequence[str] = ()) -> dict[str, Any]:
    """For pyarrow's writers: zstd, pages with checksums, and dictionaries for these columns, as most are too varied for one.

    Statistics are written of numbers, and of texts that are never null or have a dictionary. DuckDB 2.0.0 finds all rows by
    `x IS NULL` where `x` is another text, and its statistics say that all values but the nulls are alike: a layer's `failure`,
    where one kind of failure occurs.
    """
    known = [f.name for f in schema if pa.types.is_primitive(f.type) or not f.nullable or f.name in dictionaries]
    use_dictionary = list(dictionaries) or False
    return {"compression": "zstd", "use_dictionary": use_dictionary, "write_statistics": known, "write_page_checksum": True}
