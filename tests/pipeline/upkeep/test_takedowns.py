"""Lists of what is to be removed."""

from pathlib import Path

import pytest

from pairsift.pipeline.upkeep.takedowns import read_list
from pairsift.stages.base import ConfigError

UID, SHA256 = "0123456789abcdef" * 2, "0123456789abcdef" * 4


def test_kinds_are_recognised(tmp_path: Path) -> None:
    lines = ["# asked for on Monday", "http://a.example/1, 2.jpg", "", UID, "7", "000000008", SHA256.upper(), "7"]
    (tmp_path / "list").write_text("\n".join(lines), encoding="utf-8")
    wanted = [
        ("url", "http://a.example/1, 2.jpg"),
        ("uid", UID),
        ("key", "000000007"),
        ("key", "000000008"),
        ("sha256", SHA256),
    ]
    assert read_list(str(tmp_path / "list")) == wanted


def test_a_header_says_what_columns_hold(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('note,UID,url\n"by mail, twice",own-1,\n,,http://a.example/ö\n', encoding="utf-8")
    assert read_list(str(tmp_path / "list.csv")) == [("uid", "own-1"), ("url", "http://a.example/ö")]


@pytest.mark.parametrize(
    ("text", "message"), [("\n", "nothing to remove"), ("a.example/1.jpg", "line 1: neither"), ("url\n", "nothing to remove")]
)
def test_mistakes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_list(str(tmp_path / "list"))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_list(str(tmp_path / "list"))
