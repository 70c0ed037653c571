"""Both runners do the same, and what a stage raises reaches whoever called."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.runners import Runner, open_runner
from pairsift.pipeline.workers.span import Span
from pairsift.stages.base import ConfigError


@pytest.fixture(params=["local", "ray"])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@contextmanager
def opened(name: str) -> Iterator[Runner]:
    with open_runner(name) as found:
        yield found


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'spark': there are ray and local"):
        open_runner("spark")


def test_map_gives_a_result_for_each_item(runner: str) -> None:
    with opened(runner) as found:
        assert sorted(found.map(abs, [-3, 2, -1], Stop())) == [1, 2, 3]
        assert list(found.map(abs, [], Stop())) == []


def test_what_a_mapped_function_raises_reaches_the_caller(runner: str) -> None:
    with opened(runner) as found, pytest.raises(Exception, match="division by zero"):
        list(found.map(reciprocal, [1, 0], Stop()))


def reciprocal(number: int) -> float:
    return 1 / number


def test_what_a_stage_raises_reaches_the_caller(
    runner: str, captions: Callable[..., dict[str, Any]], curate: Callable[..., Any]
) -> None:
    with pytest.raises(Exception, match="a fault of the program"):
        curate(captions(["a", "b"] * 10), {"use": "pairsift_toys.broken", "how": "raise"}, runner=runner)


def test_of_units_that_fail_together_one_is_told(
    captions: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = curate(captions(["a"] * 12), {"use": "pairsift_toys.broken"}).plan
    for file in (tmp_path / "out" / "work" / "layers").rglob("*.parquet"):
        file.unlink()
    with opened("local") as found, pytest.raises(OSError, match="lacks rows of the input, or is missing"):
        list(found.process(Span(plan, 0, 1, horizon=1), [0, 1, 2], Stop()))
    gc.collect()
    told = [record for record in caplog.records if record.exc_info and isinstance(record.exc_info[1], OSError)]
    assert told == [], "asyncio tells of exceptions that nobody has looked at"


def test_results_are_the_same(runner: str, captions: Callable[..., dict[str, Any]], curate: Callable[..., Any]) -> None:
    texts = ["a", "fail", None, "b b", "a", "fail"] * 4
    stages = [
        {"use": "pairsift_toys.later"},
        {"use": "pairsift_toys.shortest", "at_most": 2},
        {"use": "pairsift_toys.broken", "resources": {"workers": 1}},
        {"use": "filter.where", "keep": "letters < 3"},
    ]
    results = curate(captions(texts), *stages, runner=runner)
    counts = {status: n for status, n in results.report["counts"].items() if n}
    assert counts == {"success": 4, "failed_to_resize": 8, "rejected": 12}
    assert results.report["rows_computed"] == {"pairsift_toys.later": 24, "pairsift_toys.broken": 6}


@pytest.mark.parametrize("name", ["local", "ray"])
def test_map_gives_every_item_back_however_many_there_are(name: str, ray_session: None) -> None:
    """More items than tasks that run at a time: none may be lost between the two."""
    with open_runner(name) as runner:
        assert sorted(runner.map(abs, range(-23, 0), Stop())) == list(range(1, 24))
