from pathlib import Path

from pairsift.stages.text.lists import list_identity, read_list


def test_json_and_lines_keep_their_order_and_their_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["b", "", "a"]')
    (tmp_path / "a.txt").write_text("b\n\na\n")
    assert read_list("x", str(tmp_path / "a.json")) == read_list("x", str(tmp_path / "a.txt")) == ["b", "", "a"]
    assert list_identity("x", str(tmp_path / "a.json")) != list_identity("x", str(tmp_path / "a.txt"))
