"""Rows become units: the same ones, with the same names, whatever tables and files they came in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.ledger.intake import Generation, Intake, read_generations, unit_rows
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.plan import intake_layer
from pairsift.stages.base import ConfigError


@pytest.fixture
def chunks(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of tables (lists of captions) and returns its path."""

    def write(name: str, tables: list[list[str | None]]) -> str:
        (tmp_path / name).write_text(json.dumps(tables))
        return str(tmp_path / name)

    return write


def intake(tmp_path: Path, *files: str, rows: int = 3, **reader: Any) -> Intake:
    source = reader or {"use": "pairsift_toys.chunks", "files": list(files), "unit_rows": rows}
    config = load_config({"input": source, "output": str(tmp_path / "out")})
    return Intake(Ledger(config.work), intake_layer(config.input), config.input)


def units(found: Intake) -> list[list[str | None]]:
    ledger, layer = found._ledger, found._layer
    return [pq.read_table(file)["caption"].to_pylist() for file in ledger.files(layer)]


def layer_bytes(found: Intake) -> list[bytes]:
    return [Path(file).read_bytes() for file in found._ledger.files(found._layer)]


def test_units_have_exactly_unit_rows_whatever_comes_in(tmp_path: Path, chunks: Callable[..., str]) -> None:
    found = intake(tmp_path, chunks("a", [["0"], [], ["1", "2", "3", "4", "5", "6", "7"]]), chunks("b", [["8"], ["9"]]))
    told: list[int] = []
    (generation,) = found.take_in(told.append)
    assert units(found) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert told == [3, 6, 9, 10]
    assert (generation.rows, generation.units, generation.end_ordinal) == (10, 4, 10)
    assert [Path(source.uri).name for source in generation.sources] == ["a", "b"]
    assert read_generations(found._ledger) == [generation]


def test_a_row_is_called_by_its_place(tmp_path: Path, chunks: Callable[..., str]) -> None:
    found = intake(tmp_path, chunks("a", [["0", "1", "2", "3"]]))
    found.take_in()
    table = found._ledger.read(found._layer, 1)
    assert table is not None
    assert (table["ordinal"].to_pylist(), table["key"].to_pylist()) == ([3], ["000000003"])
    assert len(table["uid"][0].as_py()) == 32


def test_later_files_follow_and_nothing_moves(tmp_path: Path, chunks: Callable[..., str]) -> None:
    first, second = chunks("b", [["0", "1", "2", "3"]]), chunks("a", [["4", "5", "6"], ["7"]])
    found = intake(tmp_path, first)
    found.take_in()
    before = layer_bytes(found)
    assert found.new_sources() == []
    assert found.take_in() == found.generations()
    both = intake(tmp_path, second, first)
    assert [Path(source.uri).name for source in both.new_sources()] == ["a"]
    one, two = both.take_in()
    assert layer_bytes(both)[:2] == before
    assert units(both) == [["0", "1", "2"], ["3"], ["4", "5", "6"], ["7"]]
    assert (two.number, two.first_unit, two.first_ordinal, two.rows) == (1, 2, 4, 4)
    assert [unit_rows([one, two], unit) for unit in range(4)] == [(0, 3), (3, 4), (4, 7), (7, 8)]


def test_an_intake_that_was_cut_short_is_done_again_to_the_same_bytes(tmp_path: Path, chunks: Callable[..., str]) -> None:
    found = intake(tmp_path, chunks("a", [[str(i) for i in range(8)]]))
    found.take_in()
    whole = layer_bytes(found)
    generation = tmp_path / "out" / "work" / "generations" / "00000.json"
    told = generation.read_bytes()
    generation.unlink()
    Path(found._ledger.files(found._layer)[2]).unlink()
    assert found.generations() == []
    found.take_in()
    assert layer_bytes(found) == whole
    assert generation.read_bytes() == told


def test_a_generation_that_is_missing_before_another_is_told(tmp_path: Path, chunks: Callable[..., str]) -> None:
    """What came after it must not be taken for the first: its units would be written over."""
    files = chunks("a", [["0", "1", "2", "3"]]), chunks("b", [["4"]])
    intake(tmp_path, *files[:1]).take_in()
    found = intake(tmp_path, *files)
    found.take_in()
    before = layer_bytes(found)
    Path(found._ledger.work.path("generations/00000.json")).unlink()
    with pytest.raises(OSError, match=r"00001\.json: does not follow the generation before it; `pairsift check`"):
        found.take_in()
    assert layer_bytes(found) == before


def test_other_rows_do_not_take_the_place_of_a_generation_that_was_lost(
    tmp_path: Path, chunks: Callable[..., str], curate: Callable[..., Any]
) -> None:
    """What stages have said of its rows would be said of others."""
    stage = {"use": "pairsift_toys.words", "log": str(tmp_path / "log")}
    source = {"use": "pairsift_toys.chunks", "files": [chunks("a", [["0", "1", "2", "3"]])], "unit_rows": 3}
    curate(source, stage)
    lost = tmp_path / "out" / "work" / "generations" / "00000.json"
    fates = (tmp_path / "out" / "fates.parquet").read_bytes()
    lost.unlink()
    chunks("a", [["0", "1", "2", "another"]])
    with pytest.raises(OSError, match=r"00000\.json: is missing, and the input has other rows now than it took in"):
        curate(source, stage)
    chunks("a", [["0", "1", "2", "3"]])
    curate(source, stage)
    assert (tmp_path / "out" / "fates.parquet").read_bytes() == fates


def test_a_reader_that_fails_in_the_middle_leaves_no_generation(tmp_path: Path, chunks: Callable[..., str]) -> None:
    broken = chunks("a", [["0", "1", "2", "3"]])
    Path(broken).write_text('[["0", "1", "2", "3"], [4]]')
    found = intake(tmp_path, broken)
    with pytest.raises(TypeError, match="int"):
        found.take_in()
    assert found.generations() == []


def test_a_changed_file_and_another_input_are_refused(tmp_path: Path, chunks: Callable[..., str]) -> None:
    path = chunks("a", [["0", "1"]])
    intake(tmp_path, path).take_in()
    with pytest.raises(ConfigError, match="another input"):
        intake(tmp_path, chunks("b", [["0"]])).new_sources()
    with pytest.raises(ConfigError, match="unit_rows"):
        intake(tmp_path, path, rows=4).generations()
    chunks("a", [["0", "1", "2"]])
    with pytest.raises(ConfigError, match="a: has changed"):
        intake(tmp_path, path).take_in()


def test_uids_are_of_url_and_caption_or_the_sources_own(tmp_path: Path, listing: Callable[..., dict[str, Any]]) -> None:
    rows = [("u", "c"), ("u", "d"), ("u", "c"), (None, "c"), (None, "c"), ("u", None), ("u", ""), ("u\0c", None)]
    uids = uids_of(tmp_path / "1", listing(rows))
    assert uids[0] == uids[2]
    assert len(set(uids)) == 6, "rows without a URL are told apart; no caption is as good as an empty one"
    assert uids[5] == uids[6]
    assert uids[7] != uids[0]
    own = [{"url": "u", "caption": "c", "uid": uid} for uid in ("mine", None, "")]
    found = uids_of(tmp_path / "2", listing(own, columns={"url": "url", "caption": "caption", "uid": "uid"}))
    assert found == ["mine", uids[0], uids[0]]


def uids_of(folder: Path, source: dict[str, Any]) -> list[str]:
    found = intake(folder, **source)
    found.take_in()
    return [uid for file in found._ledger.files(found._layer) for uid in pq.read_table(file)["uid"].to_pylist()]


def test_an_empty_input_runs_to_an_empty_output(tmp_path: Path, curate: Callable[..., Any]) -> None:
    (tmp_path / "rows.csv").write_text("url,caption\n")
    stages = [
        {"use": "dedup.exact", "by": ["url"]},
        {"use": "download", "image_size": 32, "contact": "https://crawl.example/"},
        {"use": "filter.where", "keep": "width > 3"},
        {"use": "dedup.exact", "by": ["sha256"]},
    ]
    results = curate({"use": "read.urls", "path": str(tmp_path / "rows.csv")}, *stages)
    assert (results.report["rows"], results.report["kept"], results.report["shards"]) == (0, 0, 0)
    assert len(results.fates()) == len(results.ledger()) == 0
    assert json.loads((tmp_path / "out" / "shards" / "sizes.json").read_text()) == {}


def test_rows_that_cannot_be_read_have_a_fate(chunks: Callable[..., str], curate: Callable[..., Any]) -> None:
    source = {"use": "pairsift_toys.chunks", "files": [chunks("a", [["0", None], [None, "3"]])], "unit_rows": 2}
    fates = curate(source, {"use": "filter.where", "keep": "length(caption) > 0"}).fates()
    assert fates["status"].to_pylist() == ["success", "failed_to_read", "failed_to_read", "success"]
    assert fates["code"].to_pylist() == [None, "unreadable_row", "unreadable_row", None]
    assert fates["error_message"].to_pylist() == [None, "a: no caption", "a: no caption", None]


def test_a_generation_is_read_back_as_it_was() -> None:
    source = {"uri": "s3://b/a.csv", "size": None, "version": "etag"}
    text = {"number": 0, "intake": "i", "unit_rows": 3, "first_unit": 0, "first_ordinal": 0, "rows": 7, "sources": [source]}
    generation = Generation.model_validate(text)
    assert Generation.model_validate_json(generation.model_dump_json()) == generation
    assert (generation.units, generation.end_ordinal) == (3, 7)
