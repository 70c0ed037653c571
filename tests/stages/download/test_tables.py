"""Rows to tables: what pyarrow's own from_pylist gives, without a copy of large images."""

import pyarrow as pa
import pytest

from pairsift.stages import schema
from pairsift.stages.download.tables import Row, table_of

LARGE = bytes(range(256)) * 400
COLUMNS = pa.schema([schema.IMAGE, schema.IMAGE_FORMAT, schema.WIDTH, schema.FAILURE])


def fine(image: bytes) -> Row:
    return {"image": image, "image_format": "jpg", "width": len(image)}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [fine(b"one")],
        [fine(b"one"), {"failure": "http_404"}, fine(b""), fine(b"four")],
        [{"failure": "timeout"}, {"failure": "timeout"}],
        [fine(bytes([number]) * number) for number in range(100)],
        [fine(b"x") if number % 3 else {"failure": "dns_error"} for number in range(17)],
        [fine(LARGE), fine(LARGE)],
        [fine(LARGE), fine(b"small"), {"failure": "http_404"}, fine(b""), fine(LARGE), {"failure": "http_404"}, fine(LARGE)],
    ],
)
def test_the_same_table_as_pyarrow_makes(rows: list[Row]) -> None:
    expected = pa.Table.from_pylist([dict(row) for row in rows], schema=COLUMNS)
    table = table_of(rows, COLUMNS)
    table.validate(full=True)
    assert table.equals(expected)
    assert table.schema.equals(COLUMNS)
    assert table["image"].null_count == expected["image"].null_count


def test_a_large_image_is_in_memory_once_and_belongs_to_the_table() -> None:
    rows = [fine(bytes(bytearray(LARGE))), fine(b"small"), fine(b"too")]
    where = pa.py_buffer(rows[0]["image"]).address
    table = table_of(rows, COLUMNS)
    assert all("image" not in row for row in rows)
    assert [len(chunk) for chunk in table["image"].chunks] == [1, 2]
    assert table["image"].chunk(0).buffers()[2].address == where
    del rows
    assert table["image"].to_pylist() == [LARGE, b"small", b"too"]
