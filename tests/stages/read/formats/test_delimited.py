import time
from pathlib import Path

import pyarrow as pa

from pairsift.stages.read.formats.delimited import MAX_RECORD_LINES, delimited_columns, delimited_tables


def _read(path: Path, delimiter: str = ",") -> pa.Table:
    names = delimited_columns(str(path), delimiter, None)
    return pa.concat_tables(delimited_tables(str(path), delimiter, None, names))


def test_a_quote_that_is_never_closed_costs_one_row_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    count = 2 * MAX_RECORD_LINES
    path.write_text('a,b\n"open,1\n' + "x,y\n" * count)
    started = time.perf_counter()
    table = _read(path)
    assert table.num_rows == count + 1
    assert table.column("failure").null_count == count
    assert table.column("failure")[0].as_py() == "unreadable_row"
    assert time.perf_counter() - started < 10  # seconds


def test_line_numbers_go_on_after_a_record_that_was_given_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"two\nlines",x\n"open,1\nc,d\nshort\n')
    table = _read(path)
    assert table.column("a").to_pylist() == ["two\nlines", None, "c", None]
    assert [detail.split(":")[0] for detail in table.column("failure_detail").to_pylist() if detail] == ["line 4", "line 6"]


def test_no_header_of_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"")
    assert delimited_columns(str(path), ",", None) == []
