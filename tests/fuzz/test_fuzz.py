"""A few seconds of what `run.py` does for as long as one likes."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "stages" / "download")]

from targets import TARGETS  # noqa: E402 - found by the line above

CASES = {"decode": 1500, "headers": 5000, "exif": 500, "urls": 3000, "redirects": 3000, "retry_after": 2000}


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_what_is_promised(target: str) -> None:
    for number in range(CASES[target]):
        TARGETS[target](0, number)
