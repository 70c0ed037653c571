"""How a worker calls its stages: each opened once, in this process; or in a child process, which may die or lose its device."""

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from pairsift.pipeline.plan import Step
from pairsift.pipeline.workers.poison import Isolation
from pairsift.stages import devices
from pairsift.stages.base import Transform

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
        """What gives the stage's answer for a sub-batch, and the seconds that took. In a child process where it is isolated:
        one at a time, as each may need as much memory as this one.

        Of a stage that is not isolated it may raise DeviceLostError: its unit is to be done again with another function.
        """
        if not isolated and step.index not in self._lost:
            yield partial(self._transform, step)
            return
        async with self._isolating:
            if step.index in self._lost:
                yield partial(_ask, self._lost[step.index])
            else:
                with Isolation(step) as isolation:
                    yield partial(_ask, isolation)

    async def _transform(self, step: Step, batch: pa.Table) -> tuple[pa.Table, float]:
        try:
            return await self._call(step, batch)
        except Exception as error:
            if (said := devices.loss(error)) is None:
                raise
            if self._replaceable:  # the device's memory is free only when this process has ended, and it has nothing to save
                os._exit(DEVICE_LOST_EXIT)
            if step.index not in self._lost:
                self._lost[step.index] = self._stack.enter_context(Isolation(step))
            raise devices.DeviceLostError(said) from error

    async def _call(self, step: Step, batch: pa.Table) -> tuple[pa.Table, float]:
        """Call the stage: in a thread, so that other units' downloads go on; one call at a time unless it is async.

        Returns its answer and the seconds it took, without the wait for its turn.
        """
        lock = self._locks.setdefault(step.index, asyncio.Lock())
        async with lock:
            if step.index not in self._transforms:
                self._transforms[step.index] = await asyncio.to_thread(self._stack.enter_context, step.stage.open())
            began = time.perf_counter()
            transform = self._transforms[step.index]
            if inspect.iscoroutinefunction(transform):
                result: Any = transform(batch)
            else:
                result = await asyncio.to_thread(transform, batch)
        if inspect.isawaitable(result):
            result = await result
        return result, time.perf_counter() - began


async def _ask(isolation: Isolation, batch: pa.Table) -> tuple[pa.Table, float]:
    began = time.perf_counter()
    return await asyncio.to_thread(isolation, batch), time.perf_counter() - began
