"""Rows in parts that any process can read."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut import parts
from pairsift.pipeline.cut.parts import LedgerRows, Parts
from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.intake import Intake
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.plan import make_plan


def test_all_rows_that_are_alive_are_in_one_part(
    captions: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BLOCK_ROWS", 4)
    monkeypatch.setattr(parts, "_ROWS_OF_A_PART", 8)
    config = load_config({"input": captions([f"c{n}" for n in range(30)], unit_rows=2), "output": str(tmp_path)})
    plan, ledger = make_plan(config), Ledger(config.work)
    generations = Intake(ledger, plan.intake, config.input).take_in()
    blocks = Blocks(ledger, generations, 27)
    assert blocks.bounds[-1] == (24, 27)
    dead = {3, 4, 5, 6, 7, 26}
    alive = Parts(blocks, lambda block: np.array([n - block * 4 for n in range(*blocks.bounds[block]) if n not in dead], int))
    assert [part.blocks for part in alive] == [(0, 1), (2, 3), (4, 5), (6,)]
    assert alive[-1].blocks == (6,)
    load = LedgerRows(config.work, tuple(generations), 27, ((plan.intake, ("caption",)),))
    next(load(alive[0]))
    rows = [row for part in alive for table in pickle.loads(pickle.dumps(load))(part) for row in table.to_pylist()]
    assert rows == [{"ordinal": n, "caption": f"c{n}", "generation": 0} for n in range(27) if n not in dead]
    with pytest.raises(IndexError):
        alive[4]
