import pyarrow as pa

from pairsift.pipeline.cut.fate_table import keys


def test_keys_have_nine_digits_or_more() -> None:
    assert keys(pa.array([0, 7, None, 999_999_999, 5_123_456_789])).to_pylist() == [
        "000000000",
        "000000007",
        None,
        "999999999",
        "5123456789",
    ]
