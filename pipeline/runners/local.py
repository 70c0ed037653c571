"""Everything in this process: no Ray, one worker, several units in flight. The oracle of the tests; fine for small jobs."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.runners import UNITS_IN_FLIGHT
from pairsift.pipeline.workers.chain import Chain
from pairsift.pipeline.workers.reports import UnitReport
from pairsift.pipeline.workers.span import Span, with_workers

T = TypeVar("T")
R = TypeVar("R")
_LOOK_SECONDS = 0.2  # between two looks whether a stop was asked for


class LocalRunner:
    """One worker, in this process."""

    def process(self, span: Span, units: Sequence[int], stop: Stop) -> Iterator[UnitReport]:
        with _event_loop() as loop, Chain(with_workers(span, 1)) as chain:
            waiting = list(reversed(units))
            running: set[asyncio.Task[UnitReport]] = set()
            while (waiting and not stop.asked) or (running and not stop.grace_is_over):
                if stop.asked:
                    waiting.clear()
                done, running = loop.run_until_complete(self._step(chain, waiting, running))
                for task in done:
                    yield task.result()
        stop.check()

    @staticmethod
    async def _step(
        chain: Chain, waiting: list[int], running: set[asyncio.Task[UnitReport]]
    ) -> tuple[set[asyncio.Task[UnitReport]], set[asyncio.Task[UnitReport]]]:
        while waiting and len(running) < UNITS_IN_FLIGHT:
            task = asyncio.ensure_future(_report(chain, waiting.pop()))
            task.add_done_callback(_noticed)
            running.add(task)
        return await asyncio.wait(running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    def map(self, function: Callable[[T], R], items: Sequence[T], stop: Stop) -> Iterator[R]:
        for item in items:
            stop.check()
            yield function(item)


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        unfinished = asyncio.all_tasks(loop)
        for task in unfinished:
            task.cancel()
        if unfinished:
            loop.run_until_complete(asyncio.wait(unfinished))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _report(chain: Chain, unit: int) -> UnitReport:
    return (await chain.process(unit))[1]


def _noticed(task: "asyncio.Task[UnitReport]") -> None:
    """Of units that fail at the same time one is raised; asyncio would print the others as exceptions nobody has seen."""
    if not task.cancelled():
        task.exception()


@contextmanager
def open_runner(address: str | None = None) -> Iterator[LocalRunner]:
    """The runner; there is nothing to start."""
    del address
    yield LocalRunner()
