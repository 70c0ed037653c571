"""What a run has computed is compacted by the time it ends, and reads the same."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.compactor import Compactor
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.layers import Layer, Ledger

LAYER = Layer.of("marks-0", pa.schema([("mark", pa.int64())]))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight units of one row, compacted from the fourth file on."""
    monkeypatch.setattr(copies, "BLOCK_ROWS", 8)
    monkeypatch.setattr(copies, "LOOSE_FILES", 3)


def rows(ordinal: int) -> pa.Table:
    return pa.table(
        [pa.array([value], field.type) for value, field in zip((ordinal, 7, None, None), LAYER.schema, strict=True)],
        schema=LAYER.schema,
    )


def test_a_block_is_compacted_when_its_last_unit_is_through(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for unit in range(24):
        ledger.commit(LAYER, unit, rows(unit))
    whole = Generation(number=0, intake="i", unit_rows=1, first_unit=0, first_ordinal=0, rows=24, sources=())
    blocks = Blocks(ledger, [whole], 24)
    with Compactor(blocks, [LAYER], range(20)) as compactor:
        for unit in [0, 1, 2, 3, 4, 5, 6, 9, 7, 16, 17]:
            compactor.done(unit)
        compactor._thread.submit(int).result()  # it is through with what was asked for
    names = ledger.work.names(f"compact/{LAYER.name}")
    assert [name[:7] for name in names] == ["000000-"]
    os.unlink(ledger.files(LAYER)[0])
    assert blocks.read(LAYER, 1, ["mark"])["ordinal"].to_pylist() == list(range(8, 16))


def test_a_run_leaves_copies_and_does_not_need_them(
    captions: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path
) -> None:
    source = captions([f"{n}" for n in range(30)], unit_rows=1)
    first = curate(source, {"use": "pairsift_toys.later"})
    compact = tmp_path / "out" / "work" / "compact"
    layers = {path.parent.name.rpartition("-")[0] for path in compact.rglob("*.parquet")}
    assert layers == {"input", "pairsift_toys.later"}
    for path in compact.rglob("*.parquet"):
        path.unlink()
    assert curate(source, {"use": "pairsift_toys.later"}).fates() == first.fates()
