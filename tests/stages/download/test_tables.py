"""Rows to tables: what pyarrow's own from_pylist gives, without the second copy."""

import pyarrow as pa
import pytest

from pairsift.stages import schema
from pairsift.stages.download.tables import Row, table_of

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
    ],
)
def test_the_same_table_as_pyarrow_makes(rows: list[Row]) -> None:
    expected = pa.Table.from_pylist([dict(row) for row in rows], schema=COLUMNS)
    table = table_of(rows, COLUMNS)
    table.validate(full=True)
    assert table.equals(expected)
    assert table.schema.equals(COLUMNS)
    assert table["image"].null_count == expected["image"].null_count


def test_each_image_is_let_go_when_it_was_copied() -> None:
    rows = [fine(b"one"), fine(b"two")]
    table = table_of(rows, COLUMNS)
    assert all("image" not in row for row in rows)
    assert table["image"].num_chunks == 1
