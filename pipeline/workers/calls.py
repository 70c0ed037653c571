"""How a worker calls its stages: each opened once, in this process; or in a child process, which may die or lose its device."""

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from pairsift.pipeline.plan import Step
from pairsift.pipeline.workers.poison import Isolation
from pairsift.stages import devices
from pairsift.stages.base import Transform

T = TypeVar("T")
Function = Callable[[pa.Table], Awaitable[tuple[pa.Table, float]]]
DEVICE_LOST_EXIT = 75  # what a worker that lost its device ends with: EX_TEMPFAIL of sysexits.h


class Calls:
    """The stages of one worker, as they are called. `stack` ends what was opened."""

    def __init__(self, stack: ExitStack, *, replaceable: bool) -> None:
        """`replaceable`: whoever runs this process starts another when it dies, and hands its units out again."""
        self._stack, self._replaceable = stack, replaceable
        self._transforms: dict[int, Transform] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._isolating = asyncio.Lock()
        self._lost: dict[int, Isolation] = {}  # by step: what this process lost the device of, and where it is done since

    @asynccontextmanager
    async def function(self, step: Step, *, isolated: bool) -> AsyncIterator[Function]:
        """What gives the stage's answer for a sub-batch of one unit, and the seconds that took. Unless the stage is async,
        units take turns: were their sub-batches dealt out in turns, all would have all of their images in memory at the end. In
        a child process where it is isolated: one at a time, as each may need as much memory as this one.

        Of a stage that is not isolated it may raise DeviceLostError: its unit is to be done again with another function.
        """
        if not isolated and step.index not in self._lost:
            async with self._turn(step):
                yield lambda batch: self._with_device(step, self._call(step, batch))
            return
        async with self._isolating:
            if step.index in self._lost:
                yield partial(_ask, self._lost[step.index])
            else:
                with Isolation(step) as isolation:
                    yield partial(_ask, isolation)

    @asynccontextmanager
    async def _turn(self, step: Step) -> AsyncIterator[None]:
        """Of one unit at a stage that is open by then; an async one waits for nobody."""
        async with self._locks.setdefault(step.index, asyncio.Lock()):
            if step.index not in self._transforms:
                opening = asyncio.to_thread(self._stack.enter_context, step.stage.open())
                self._transforms[step.index] = await self._with_device(step, opening)
            if not inspect.iscoroutinefunction(self._transforms[step.index]):
                yield
                return
        yield

    async def _with_device(self, step: Step, work: Coroutine[Any, Any, T]) -> T:
        """Raises DeviceLostError where the stage's device gets lost."""
        try:
            return await work
        except Exception as error:
            if (said := devices.loss(error)) is None:
                raise
            if self._replaceable:  # the device's memory is free only when this process has ended, and it has nothing to save
                os._exit(DEVICE_LOST_EXIT)
            if step.index not in self._lost:
                self._lost[step.index] = self._stack.enter_context(Isolation(step))
            raise devices.DeviceLostError(said) from error

    async def _call(self, step: Step, batch: pa.Table) -> tuple[pa.Table, float]:
        """Call the stage: in a thread unless it is async, so that other units' downloads go on."""
        transform, began = self._transforms[step.index], time.perf_counter()
        if inspect.iscoroutinefunction(transform):
            result: Any = await transform(batch)
        else:
            result = await asyncio.to_thread(transform, batch)
        return result, time.perf_counter() - began


async def _ask(isolation: Isolation, batch: pa.Table) -> tuple[pa.Table, float]:
    began = time.perf_counter()
    return await asyncio.to_thread(isolation, batch), time.perf_counter() - began
