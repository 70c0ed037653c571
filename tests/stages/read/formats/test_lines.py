from pathlib import Path

from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.lines import MAX_LINE, lines


def test_a_line_that_is_too_long_is_passed_over_and_given_as_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + b"x" * (MAX_LINE + 5) + b"\ntwo\r\n" + b"last")
    found = list(lines(str(path)))
    assert [(line.number, line.failure) for line in found] == [(1, None), (2, Failure.UNREADABLE_ROW), (3, None), (4, None)]
    assert [line.text for line in found] == ["one\n", "", "two\r\n", "last"]


def test_bytes_that_are_not_utf8_are_replaced_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\xffb\n")
    (line,) = lines(str(path))
    assert (line.text, line.failure, line.detail) == ("a\ufffdb\n", Failure.INVALID_TEXT, "line 1: not UTF-8")
