"""Stages, opened and asked about a column."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from pairsift.stages.base import Stage

Answers = Callable[[Stage, list[Any]], dict[str, list[Any]]]


@pytest.fixture
def answers() -> Answers:
    """Column → values that a stage writes for the values of its one column."""

    def ask(stage: Stage, values: list[Any]) -> dict[str, list[Any]]:
        stage.check()
        (column,) = stage.reads()
        with stage.open() as transform:
            result = transform(pa.table({"ordinal": range(len(values)), column: pa.array(values, pa.string())}))
        assert isinstance(result, pa.Table)
        assert result.schema == stage.writes()
        found: dict[str, list[Any]] = result.to_pydict()
        return found

    return ask
