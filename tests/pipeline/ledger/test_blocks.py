"""The ledger in blocks: what is read is what was committed, through compact files or not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Layer, Ledger

LAYER = Layer.of("marks-0", pa.schema([("mark", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float16(), 2))]))
Curate = Callable[..., Any]


def rows(ordinals: list[int]) -> pa.Table:
    texts = [None if n % 3 == 0 else f"text {n}" for n in ordinals]
    vectors = [[n, -n] for n in ordinals]
    columns = [ordinals, [n * n for n in ordinals], texts, vectors, ["not_finite" if n % 5 == 0 else None for n in ordinals]]
    columns.append([None] * len(ordinals))
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LAYER.schema, strict=True)], schema=LAYER.schema)


def generation(units: int, unit_rows: int = 3, number: int = 0, first_unit: int = 0) -> Generation:
    return Generation(
        number=number,
        intake="input-0",
        unit_rows=unit_rows,
        first_unit=first_unit,
        first_ordinal=first_unit * unit_rows,
        rows=units * unit_rows,
        sources=(),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Files of 100 units, with three rows each."""
    made = Ledger(str(tmp_path / "work"))
    for unit in range(100):
        made.commit(LAYER, unit, rows([3 * unit, 3 * unit + 1, 3 * unit + 2]))
    return made


def copied(ledger: Ledger) -> list[str]:
    return ledger.work.names(f"compact/{LAYER.name}")


def read(ledger: Ledger, columns: list[str], units: int = 100, limit: int | None = None) -> pa.Table:
    generations = [generation(units)]
    found = Blocks(ledger, generations, units * 3 if limit is None else limit)
    return pa.concat_tables([found.read(LAYER, block, columns) for block in range(found.count)])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 40 units, which are compacted from the eleventh file on."""
    monkeypatch.setattr(copies, "BLOCK_ROWS", 120)
    monkeypatch.setattr(copies, "LOOSE_FILES", 10)


def test_blocks_have_all_ordinals_once() -> None:
    for unit_rows, units, limit in [(1000, 2500, None), (7, 3000, 12_345), (10**6, 3, None), (3 * 10**6, 2, 10), (9, 1, 0)]:
        generations = [generation(units, unit_rows), generation(5, unit_rows, number=1, first_unit=units)]
        total = (units + 5) * unit_rows
        bounds = Blocks(Ledger("/nowhere"), generations, total if limit is None else limit).bounds
        flat = [ordinal for pair in bounds for ordinal in pair]
        assert flat[1:-1:2] == flat[2::2], "no gaps"
        assert (flat[0], flat[-1]) == (0, total if limit is None else limit) if flat else limit == 0
        assert all(end - first <= max(copies.BLOCK_ROWS, unit_rows) for first, end in bounds)
    assert Blocks(Ledger("/nowhere"), [], 0).bounds == []


@pytest.mark.usefixtures("small")
def test_what_is_read_through_a_compact_file_is_what_is_there(ledger: Ledger) -> None:
    expected = rows(list(range(300)))
    for _ in range(2):
        assert read(ledger, ["text", "mark", "failure"]) == expected.select(["ordinal", "text", "mark", "failure"])
        assert [name[:7] for name in copied(ledger)] == ["000000-", "000001-", "000002-"]
    assert read(ledger, ["vector"]) == expected.select(["ordinal", "vector"]), "which compact files do not have"
    assert read(ledger, [], limit=100)["ordinal"].to_pylist() == list(range(100))
    assert read(ledger, ["mark"], units=50) == expected.select(["ordinal", "mark"]).slice(0, 150)


@pytest.mark.usefixtures("small")
def test_files_that_come_later_are_read_beside_it_until_they_are_many(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "work"))
    for unit in range(20):
        ledger.commit(LAYER, unit, rows([3 * unit + 1]))
    read(ledger, ["mark"], units=40)
    first = copied(ledger)
    assert len(first) == 1
    for unit in (2, 7, 30):
        ledger.commit(LAYER, unit, rows([3 * unit, 3 * unit + 2]))
    there = sorted([3 * unit + 1 for unit in range(20)] + [n for unit in (2, 7, 30) for n in (3 * unit, 3 * unit + 2)])
    assert read(ledger, ["text"], units=40) == rows(there).select(["ordinal", "text"])
    assert copied(ledger) == first, "three files are not many"
    for unit in range(8, 16):
        ledger.commit(LAYER, unit, rows([3 * unit]))
    there = sorted(there + [3 * unit for unit in range(8, 16)])
    assert read(ledger, ["text"], units=40) == rows(there).select(["ordinal", "text"])
    assert len(copied(ledger)) == 1
    assert copied(ledger) != first, "eleven are"
    assert read(ledger, ["text"], units=40) == rows(there).select(["ordinal", "text"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("harm", ["cut off", "emptied", "one bit", "gone", "of other files", "half written"])
def test_a_compact_file_may_be_damaged_or_go(ledger: Ledger, harm: str) -> None:
    expected = rows(list(range(300))).select(["ordinal", "text"])
    read(ledger, ["mark"])
    path = Path(ledger.work.path(f"compact/{LAYER.name}/{copied(ledger)[1]}"))
    whole = path.read_bytes()
    if harm == "cut off":
        path.write_bytes(whole[:-100])
    elif harm == "emptied":
        path.write_bytes(whole[:50] + bytes(len(whole) - 250) + whole[-200:])
    elif harm == "one bit":
        path.write_bytes(whole[: len(whole) // 3] + bytes([whole[len(whole) // 3] ^ 1]) + whole[len(whole) // 3 + 1 :])
    elif harm == "gone":
        path.unlink()
    elif harm == "of other files":  # the first block's, whose files this block does not have
        path.write_bytes(Path(ledger.work.path(f"compact/{LAYER.name}/{copied(ledger)[0]}")).read_bytes())
    else:
        (path.parent / f".{path.name}.x.tmp").write_bytes(whole[:10])
    assert read(ledger, ["text"]) == expected
    assert read(ledger, ["text"]) == expected


@pytest.mark.usefixtures("small")
def test_a_row_whose_file_was_removed_is_gone(ledger: Ledger) -> None:
    """Someone removes a layer's file so that it is computed again; the copy must not say that it is there."""
    read(ledger, ["mark"])
    os.unlink(ledger.files(LAYER)[50])
    assert read(ledger, ["mark"])["ordinal"].to_pylist() == [*range(150), *range(153, 300)]
    new = rows([150, 151, 152]).set_column(1, LAYER.schema.field("mark"), pa.array([0, 0, 0]))
    ledger.commit(LAYER, 50, new)
    assert read(ledger, ["mark"])["mark"].to_pylist()[150:153] == [0, 0, 0]


@pytest.mark.usefixtures("small")
def test_where_no_compact_file_can_be_written(ledger: Ledger) -> None:
    Path(ledger.work.path("compact")).write_text("in the way")
    assert read(ledger, ["mark"]) == rows(list(range(300))).select(["ordinal", "mark"])


@pytest.mark.usefixtures("small")
def test_files_of_a_block_are_compacted_when_asked(ledger: Ledger) -> None:
    found = Blocks(ledger, [generation(100)], 300)
    assert [found.block_of(unit) for unit in (0, 39, 40, 99)] == [0, 0, 1, 2]
    found.compact(LAYER, 1)
    assert [name[:7] for name in copied(ledger)] == ["000001-"]
    os.unlink(ledger.files(LAYER)[50])
    found.compact(LAYER, 1)
    assert found.read(LAYER, 1, ["mark"])["ordinal"].to_pylist() == [*range(120, 150), *range(153, 240)]


@pytest.mark.usefixtures("small")
def test_fates_are_the_same_with_and_without_compact_files(
    captions: Callable[..., dict[str, Any]], curate: Curate, tmp_path: Path
) -> None:
    source = captions([f"{'x' * (n % 9)}" if n % 7 else "fail" for n in range(200)], unit_rows=3)
    stages: list[dict[str, Any]] = [
        {"use": "filter.where", "keep": "length(caption) > 1"},
        {"use": "pairsift_toys.later"},
        {"use": "pairsift_toys.broken"},
        {"use": "select.top_fraction", "by": "letters", "fraction": 0.7},
        {"use": "dedup.exact", "by": ["caption", "letters"]},
    ]
    first = curate(source, *stages)
    compact = tmp_path / "out" / "work" / "compact"
    assert len(list(compact.rglob("*.parquet"))) == 6, "two blocks of each of three layers"
    again = curate(source, *stages)
    assert again.fates() == first.fates()
    assert again.report["rows_computed"] == {"pairsift_toys.later": 0, "pairsift_toys.broken": 0}
    stages[0]["keep"] = "length(caption) > 0"
    looser = curate(source, *stages)
    for file in compact.rglob("*.parquet"):
        file.unlink()
    assert curate(source, *stages).fates() == looser.fates()
    assert curate(source, *stages, output="fresh").fates() == looser.fates()
