"""Bodies to rows in threads of their own, several at a time.

To wake another thread costs some tenth of a millisecond on either side, which is much beside an image's two. So a thread that
has begun takes whatever else is waiting, for a while, and gives its results back together.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_MOST_SECONDS = 0.02  # that results wait for those of others; an image that takes longer ends the round by itself
_AHEAD = 2  # rounds per thread that are handed out, so that a thread need not wait for the loop between two of them


@dataclass(frozen=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    result: "asyncio.Future[T]"


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one piece of work; `value` if there is no error."""

    job: _Job[T]
    value: T | None
    error: Exception | None


class DecodePool:
    """Runs functions in an executor's threads. Belongs to the loop on which it is used."""

    def __init__(self, executor: Executor, threads: int) -> None:
        self._executor = executor
        self._most_rounds = _AHEAD * threads
        self._waiting: deque[_Job[Any]] = deque()
        self._rounds = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Await `work()`, raising what it raises."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Job(work, result))
        self._begin(loop)
        return await result

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._rounds < self._most_rounds:
            self._rounds += 1
            done = loop.run_in_executor(self._executor, _round, self._waiting)
            done.add_done_callback(partial(self._deliver, loop))

    def _deliver(self, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[list[Outcome[Any]]]") -> None:
        self._rounds -= 1
        if done.cancelled():  # the executor was shut down, and nobody waits any more
            return
        for outcome in done.result():
            if outcome.job.result.done():  # cancelled meanwhile
                continue
            if outcome.error is not None:
                outcome.job.result.set_exception(outcome.error)
            else:
                outcome.job.result.set_result(outcome.value)
        if self._waiting:
            self._begin(loop)


def _round(waiting: "deque[_Job[Any]]") -> list[Outcome[Any]]:
    """Work through what is waiting until there is nothing left or time is up. Other threads may do so at the same time."""
    outcomes: list[Outcome[Any]] = []
    until = time.perf_counter() + _MOST_SECONDS
    while waiting and (not outcomes or time.perf_counter() < until):
        try:
            job = waiting.popleft()
        except IndexError:  # another thread was quicker
            break
        if job.result.cancelled():
            continue
        try:
            outcomes.append(Outcome(job, job.work(), None))
        except Exception as error:  # noqa: BLE001 - not swallowed: raised where the result is awaited
            outcomes.append(Outcome(job, None, error))
    return outcomes
