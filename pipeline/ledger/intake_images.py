"""Images that a reader gives as bytes, since no byte range can be cited: copied once, into payloads of layer 0."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.ledger.layers import Layer, Ledger
from pairsift.stages import schema

_MOST = 256 << 20  # bytes of images held in memory; a unit that has more gets several payloads
_PLACES = (schema.IMAGE_PATH, schema.IMAGE_OFFSET, schema.IMAGE_LENGTH)


def store_images(
    tables: Iterator[pa.Table], ledger: Ledger, layer: Layer, *, unit_rows: int, first_unit: int, first_ordinal: int
) -> Iterator[pa.Table]:
    """The tables with references in place of `image`. A row that has a reference already keeps it where it has no bytes."""
    waiting: list[pa.Table] = []
    size = rows = begun = 0  # bytes that wait; rows that came in; those of them that were stored

    def stored() -> pa.Table:
        keys = [f"{ordinal:09d}" for ordinal in range(first_ordinal + begun, first_ordinal + rows)]
        return _stored(pa.concat_tables(waiting), ledger, layer, first_unit + begun // unit_rows, keys)

    for table in tables:
        start = 0
        while start < len(table):
            part = table.slice(start, unit_rows - rows % unit_rows)
            waiting.append(part)
            start, rows, size = start + len(part), rows + len(part), size + part[schema.IMAGE.name].nbytes
            if rows % unit_rows == 0 or size >= _MOST:
                yield stored()
                waiting, size, begun = [], 0, rows
    if waiting:
        yield stored()


def _stored(table: pa.Table, ledger: Ledger, layer: Layer, unit: int, keys: list[str]) -> pa.Table:
    images = table[schema.IMAGE.name]
    if images.null_count == len(images):
        references = pa.table({field.name: pa.nulls(len(table), field.type) for field in _PLACES})
    else:
        references = ledger.write_payload(layer, unit, keys, table[schema.IMAGE_FORMAT.name].to_pylist(), images)
    for field in _PLACES:
        column = references[field.name]
        if field.name in table.column_names:
            column = pc.coalesce(column, table[field.name])
            table = table.drop_columns([field.name])
        table = table.append_column(field, column)
    return table.drop_columns([schema.IMAGE.name])
