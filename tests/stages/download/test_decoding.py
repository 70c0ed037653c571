"""DecodePool: every piece of work has its own result or error, whatever round it was done in."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from pairsift.stages.download.decoding import DecodePool


def with_pool(threads: int, scenario: Callable[[DecodePool], Any]) -> Any:
    async def go() -> Any:
        with ThreadPoolExecutor(threads) as executor:
            return await scenario(DecodePool(executor, threads))

    return asyncio.run(go())


@pytest.mark.parametrize("threads", [1, 3])
def test_each_gets_its_own_result(threads: int) -> None:
    async def scenario(pool: DecodePool) -> list[int]:
        return await asyncio.gather(*(pool.run(partial(pow, number, 2)) for number in range(500)))

    assert with_pool(threads, scenario) == [number**2 for number in range(500)]


def test_an_error_is_its_own_works() -> None:
    def work(number: int) -> float:
        return 1 / (number % 3)

    async def scenario(pool: DecodePool) -> list[Any]:
        return await asyncio.gather(*(pool.run(partial(work, number)) for number in range(9)), return_exceptions=True)

    results = with_pool(2, scenario)
    assert [isinstance(result, ZeroDivisionError) for result in results] == [True, False, False] * 3
    assert results[1::3] == [1.0] * 3


def test_no_more_threads_than_asked_for_and_none_idle() -> None:
    """Slow pieces: each thread has its own, side by side."""
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1

    async def scenario(pool: DecodePool) -> None:
        await asyncio.gather(*(pool.run(work) for _ in range(8)))

    with_pool(2, scenario)
    assert most == 2


def test_who_is_cancelled_is_not_worked_for() -> None:
    done: list[int] = []

    async def scenario(pool: DecodePool) -> None:
        first = asyncio.ensure_future(pool.run(partial(time.sleep, 0.1)))
        others = [asyncio.ensure_future(pool.run(partial(done.append, number))) for number in range(5)]
        await asyncio.sleep(0.02)
        for other in others[:4]:
            other.cancel()
        await asyncio.gather(first, *others, return_exceptions=True)

    with_pool(1, scenario)
    assert done == [4]
