"""Kills at random moments, on both runners; tests/chaos/run.py does more of it, and says what it does."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "chaos" / "run.py"


def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("chaos", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["chaos"] = module  # dataclasses look there
    found.loader.exec_module(module)
    return module


@pytest.mark.timeout(300)
def test_whoever_is_killed_the_output_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    said: list[str] = []
    chaos = script().wreak(tmp_path, ["local", "local", "ray"], kills=8, rows=400, seed=4, say=said.append)
    assert chaos.kills >= 8, said
    assert chaos.killed.keys() - {"driver", "SIGTERM"}, said  # somebody else than the driver, too
    assert chaos.finished >= 1
