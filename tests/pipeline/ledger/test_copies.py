"""Compact files: they are whole or not there, and those of layer 0 come with the intake."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.copies import Copies, CopyWriter
from pairsift.pipeline.ledger.intake import Generation, Intake
from pairsift.pipeline.ledger.layers import Layer, Ledger
from pairsift.pipeline.plan import intake_layer
from pairsift.stages.storage import Folder

LAYER = Layer.of("marks-0", pa.schema([("mark", pa.int64()), ("vector", pa.list_(pa.float32(), 2))]))


def rows(first: int, count: int) -> pa.Table:
    ordinals = range(first, first + count)
    columns = [ordinals, [n * n for n in ordinals], [[n, n] for n in ordinals], [None] * count, [None] * count]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LAYER.schema, strict=True)], schema=LAYER.schema)


@pytest.fixture
def work(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "work"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight units of three rows, compacted from the fourth file on; row groups of five rows."""
    monkeypatch.setattr(copies, "BLOCK_ROWS", 24)
    monkeypatch.setattr(copies, "LOOSE_FILES", 3)
    monkeypatch.setattr(copies, "_GROUP_ROWS", 5)


def test_a_block_divides_the_units_of_a_folder() -> None:
    assert [copies.units_of_block(rows) for rows in (1, 3, 5, 24, 25)] == [20, 8, 4, 1, 1]


def test_a_copy_has_all_rows_but_no_vectors_and_takes_the_place_of_the_older(work: Folder) -> None:
    found = Copies(work)
    parts = [(0, 0), (1, 0), (1, 1)]
    assert found.best(LAYER, 0, parts) == (None, set())
    first = found.write(LAYER, 0, [rows(0, 4)], parts[:1])
    second = found.write(LAYER, 0, [rows(0, 4), rows(4, 2), rows(6, 1)], parts)
    assert second is not None
    for known in (found, Copies(work)):
        assert known.best(LAYER, 0, parts) == (second, set(parts))
    assert not work.exists(str(first))
    wanted = ["mark", "ordinal"]
    assert found.read(LAYER, second, wanted) == rows(0, 7).select(wanted)
    assert copies.copied(LAYER) == ["ordinal", "mark", "failure", "failure_detail"]
    assert found.best(LAYER, 0, parts[1:]) == (None, set())
    assert not work.exists(second), "it covers a file that is not there any more"


def test_rows_that_cannot_be_read_leave_no_copy(work: Folder) -> None:
    def damaged() -> Iterator[pa.Table]:
        yield rows(0, 9)
        raise OSError("damaged")

    found = Copies(work)
    assert found.best(LAYER, 0, [(0, 0)]) == (None, set())
    assert found.write(LAYER, 0, damaged(), [(0, 0)]) is None
    with CopyWriter(work, LAYER, 1) as writer:
        writer.add(rows(0, 9))
    assert list(Path(work.path(f"compact/{LAYER.name}")).iterdir()) == []


@pytest.fixture
def take_in(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> Callable[..., tuple[Intake, list[Generation]]]:
    def take(texts: list[str], name: str = "a") -> tuple[Intake, list[Generation]]:
        source = captions(texts, name=f"in/{name}.parquet", path=str(tmp_path / "in"), unit_rows=3)
        config = load_config({"input": source, "output": str(tmp_path / "out")})
        intake = Intake(Ledger(config.work), intake_layer(config.input), config.input)
        return intake, intake.take_in()

    return take


def read(intake: Intake, generations: list[Generation]) -> list[str]:
    found = Blocks(intake._ledger, generations, generations[-1].end_ordinal)
    blocks = [found.read(intake._layer, block, ["caption"])["caption"].to_pylist() for block in range(found.count)]
    return [text for block in blocks for text in block]


def test_layer_0_is_copied_while_it_is_taken_in(take_in: Callable[..., Any]) -> None:
    texts = [f"text {n}" for n in range(70)]  # 24 units: three blocks
    intake, generations = take_in(texts)
    work = intake._ledger.work
    names = work.names(f"compact/{intake._layer.name}")
    assert [name[:7] for name in names] == ["000000-", "000001-", "000002-"]
    assert read(intake, generations) == texts
    assert work.names(f"compact/{intake._layer.name}") == names, "none is made anew"
    for path in intake._ledger.files(intake._layer)[:8]:
        Path(path).write_bytes(b"")
    assert read(intake, generations)[:24] == texts[:24], "it is read through the copy"


def test_copies_of_an_intake_that_was_cut_short_are_not_believed(take_in: Callable[..., Any], tmp_path: Path) -> None:
    """Its units are written anew, here with other rows, since the input has changed meanwhile."""
    take_in(["old"] * 70)
    (tmp_path / "out" / "work" / "generations" / "00000.json").unlink()
    intake, generations = take_in([f"new {n}" for n in range(60)])
    assert read(intake, generations) == [f"new {n}" for n in range(60)]


def test_a_generation_that_begins_within_a_block(take_in: Callable[..., Any]) -> None:
    texts = [f"text {n}" for n in range(97)]
    take_in(texts[:30])  # ten units: a block and a quarter
    intake, generations = take_in(texts[30:], name="b")
    names = intake._ledger.work.names(f"compact/{intake._layer.name}")
    assert [name[:7] for name in names] == ["000000-", "000002-", "000003-"], "the second was begun by another"
    assert read(intake, generations) == texts
    assert len(intake._ledger.work.names(f"compact/{intake._layer.name}")) == 4, "and is made where it is read"


def test_where_copies_cannot_be_written(take_in: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "compact").write_text("in the way")
    intake, generations = take_in([f"text {n}" for n in range(70)])
    assert read(intake, generations) == [f"text {n}" for n in range(70)]
