"""A lost device: its unit is done again by a new process, no row is blamed, and there is an end to it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import PrivateAttr

from pairsift.pipeline.config import build_entry
from pairsift.pipeline.ledger.layers import Layer
from pairsift.pipeline.plan import Step
from pairsift.pipeline.workers.calls import Calls
from pairsift.pipeline.workers.poison import LOSSES
from pairsift.stages.base import Columns, Stage, Transform
from pairsift.stages.devices import DeviceLostError

UNIT = 4  # rows
SAID = "CUDA error: unspecified launch failure"


@pytest.fixture(params=["local", "ray"])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def lossy(
    tmp_path: Path, runner: str, captions: Callable[..., dict[str, Any]], curate: Callable[..., Any]
) -> Callable[..., list[dict[str, Any]]]:
    """Fates of a run over these captions, on a device that gets lost."""

    def fates(texts: list[str | None], output: str = "out", **options: Any) -> list[dict[str, Any]]:
        stage = {"use": "pairsift_toys.device", "mark": str(tmp_path / "mark"), **options}
        curate(captions(texts, unit_rows=UNIT), stage, output=output, runner=runner)
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / output / "fates.parquet").to_pylist()
        return rows

    return fates


def test_a_device_that_is_lost_once_costs_no_row(tmp_path: Path, lossy: Callable[..., list[dict[str, Any]]]) -> None:
    found = lossy([f"caption {i}" for i in range(12)])
    assert [fate["status"] for fate in found] == ["success"] * 12
    assert (tmp_path / "mark").read_text() == "."
    layers = sorted((tmp_path / "out").rglob("layers/pairsift_toys.device-*/**/*.parquet"))
    letters = [letters for file in layers for letters in pq.read_table(file)["letters"].to_pylist()]
    assert letters == [len(f"caption {i}") for i in range(12)]


def test_a_unit_that_loses_it_again_and_again_fails_and_others_do_not(
    lossy: Callable[..., list[dict[str, Any]]],
) -> None:
    texts: list[str | None] = [f"caption {i}" for i in range(12)]
    texts[5] = "cursed"
    found = lossy(texts, losses=0)
    failed = {fate["ordinal"]: (fate["status"], fate["code"], fate["error_message"]) for fate in found if fate["code"]}
    assert failed == dict.fromkeys(range(4, 8), ("failed_to_compute", "device_lost", SAID)), "no row is to blame alone"


def test_a_device_that_is_gone_ends_the_run_with_one_line(lossy: Callable[..., list[dict[str, Any]]]) -> None:
    with pytest.raises(OSError, match=r"pairsift_toys.device: there is no device to open it on any more \(CUDA error: unspec"):
        lossy(["a", "b"], gone=True)


def step(mark: Path, **options: Any) -> Step:
    use = "pairsift_toys.device"
    stage = build_entry({"use": use, "mark": str(mark), **options}, use, (Stage,))
    return Step(0, stage, Layer.of("toy", stage.writes()), stage.writes())


def test_a_process_that_nobody_replaces_goes_on_in_a_child(tmp_path: Path) -> None:
    """The same child answers for all later units."""
    lost = step(tmp_path / "mark")
    batch = pa.table({"ordinal": [0, 1], "caption": ["one", "three"]})

    async def ask(calls: Calls) -> pa.Table:
        async with calls.function(lost, isolated=False) as function:
            return (await function(batch))[0]

    async def thrice() -> list[pa.Table]:
        with ExitStack() as stack:
            calls = Calls(stack, replaceable=False)
            with pytest.raises(DeviceLostError, match=SAID):
                await ask(calls)
            return [await ask(calls), await ask(calls)]

    assert [found["letters"].to_pylist() for found in asyncio.run(thrice())] == [[3, 5], [3, 5]]
    assert (tmp_path / "mark").read_text() == "."


def test_a_child_is_replaced_as_often_as_is_said(tmp_path: Path) -> None:
    lost = step(tmp_path / "mark", losses=LOSSES - 1)
    batch = pa.table({"ordinal": [0], "caption": ["one"]})

    async def ask() -> pa.Table:
        with ExitStack() as stack:
            async with Calls(stack, replaceable=True).function(lost, isolated=True) as function:
                return (await function(batch))[0]

    assert asyncio.run(ask())["letters"].to_pylist() == [3]
    assert len((tmp_path / "mark").read_text()) == LOSSES - 1


class Diary(Stage):
    """Notes the captions that it is called with; of its two transforms, one is async."""

    waits: bool
    _lines: list[str] = PrivateAttr(default_factory=list)

    def reads(self) -> Columns:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([("letters", pa.int64())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        def note(batch: pa.Table) -> pa.Table:
            self._lines += batch["caption"].to_pylist()
            return pa.table({"letters": [0]})

        async def note_later(batch: pa.Table) -> pa.Table:
            await asyncio.sleep(0.01)
            return note(batch)

        yield note_later if self.waits else note


@pytest.mark.parametrize("waits", [False, True])
def test_units_take_turns_at_a_stage_unless_it_is_async(waits: bool) -> None:
    """Else all units in flight would have nearly all of their images in memory before the first of them can be stored."""
    diary = Diary(use="diary", waits=waits)

    async def unit(calls: Calls, name: str) -> None:
        async with calls.function(Step(0, diary, Layer.of("toy", diary.writes()), diary.writes()), isolated=False) as function:
            for _ in range(3):
                await function(pa.table({"ordinal": [0], "caption": [name]}))

    async def both() -> None:
        with ExitStack() as stack:
            calls = Calls(stack, replaceable=False)
            await asyncio.gather(unit(calls, "a"), unit(calls, "b"))

    asyncio.run(both())
    assert "".join(diary._lines) == ("ababab" if waits else "aaabbb")
