import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.host import DOWN_AFTER, HostLimits, Patience
from pairsift.stages.download.hosts import Hosts, Turn
from pairsift.stages.fates import Failure

BUSY = FetchError(Failure.HTTP_503, status=503)
ABSENT = FetchError(Failure.CONNECT_ERROR)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def enter(hosts: Hosts, seconds: float = 10, name: str = "a.example") -> Turn:
    return await hosts.enter(name, Patience(seconds))


async def ask(hosts: Hosts, error: FetchError | None = None, seconds: float = 10) -> None:
    (await enter(hosts, seconds)).leave(error)


async def times(hosts: Hosts, count: int) -> list[float]:
    """When each of so many rows had its turn, in seconds from now; each is answered at once."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one() -> float:
        turn = await enter(hosts)
        at = loop.time() - began
        turn.leave()
        return at

    return sorted(await asyncio.gather(*(one() for _ in range(count))))


def test_turns_are_given_back_when_a_row_is_given_up() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits(concurrency=1))
        first = await enter(hosts)
        waiting = [asyncio.ensure_future(enter(hosts)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        first.leave()
        first.leave()  # leaving twice frees nothing twice
        waiting[1].cancel()  # it has its turn, and has not been told yet
        turn = await waiting[2]
        late = asyncio.ensure_future(enter(hosts))
        await asyncio.sleep(0.02)
        assert not late.done()
        turn.leave()
        (await late).leave()

    run(work())


def test_a_busy_host_is_slowed_and_recovers() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits(concurrency=8))
        assert (await times(hosts, 8))[-1] < 0.1
        turns = [await enter(hosts) for _ in range(8)]
        for turn in turns:
            turn.leave(BUSY)  # eight complaints about one and the same speed
        slowed = await times(hosts, 8)
        assert slowed[0] >= 0.2
        gaps = [later - earlier for earlier, later in pairwise(slowed)]
        assert max(gaps) < 0.6  # it was slowed once
        assert gaps[0] > gaps[-1]
        assert (await times(hosts, 20))[-1] < 0.5

    run(work())


def test_single_faults_slow_nothing_down() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits())
        for _ in range(20):
            await ask(hosts, FetchError(Failure.CONNECTION_LOST))
            await ask(hosts, FetchError(Failure.HTTP_404))
        assert (await times(hosts, 8))[-1] < 0.1

    run(work())


def test_a_host_that_is_down_is_probed_and_comes_back() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits(), first_probe=0.2)
        asked = refused = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1:
            try:
                turn = await enter(hosts)
            except FetchError as error:
                refused += (error.failure, error.again) == (Failure.CONNECT_ERROR, False)
                await asyncio.sleep(0.005)
            else:
                asked += 1
                turn.leave(ABSENT)
        assert refused > 20
        assert DOWN_AFTER < asked <= DOWN_AFTER + 4
        await asyncio.sleep(0.9)
        await ask(hosts)
        await ask(hosts)

    run(work())


def test_those_who_wait_hear_that_the_host_is_down() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits(concurrency=1))
        turn = await enter(hosts)
        waiting = [asyncio.ensure_future(enter(hosts)) for _ in range(20)]
        for _ in range(DOWN_AFTER):
            turn.leave(ABSENT)
            await asyncio.sleep(0)
            turn = next((task.result() for task in waiting if task.done() and not task.exception()), turn)
            waiting = [task for task in waiting if not task.done() or task.exception()]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {str(error) for error in found} == {"host is down: not asked"}

    run(work())


def test_patience_is_for_all_attempts_together() -> None:
    patience = Patience(10)
    assert patience.allows(5, now=6)
    assert patience.allows(100, now=95)
    assert patience.allows(105, now=100)
    assert not patience.allows(106, now=101)


def test_hosts_do_not_wait_for_each_other() -> None:
    async def work() -> None:
        hosts = Hosts(HostLimits(concurrency=1))
        await enter(hosts, name="a.example")
        await enter(hosts, name="b.example")
        waiting = asyncio.ensure_future(enter(hosts, name="a.example"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        waiting.cancel()

    run(work())
