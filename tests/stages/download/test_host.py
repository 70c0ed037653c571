"""One host: what it has brought on itself. How its rows take turns is in test_hosts.py."""

import asyncio

import pytest

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.host import DOWN_AFTER, NOBODY_THERE, Host, HostLimits, Patience, Waiter
from pairsift.stages.fates import Failure


def test_a_share_never_is_nothing() -> None:
    share = HostLimits(concurrency=8, rate=12, loopback=True).share(3)
    assert (share.concurrency, share.rate, share.loopback) == (2, 4, True)
    assert HostLimits(concurrency=2).share(5) == HostLimits(concurrency=1)


@pytest.mark.parametrize("failure", NOBODY_THERE)
def test_nobody_there_often_enough_and_it_is_down(failure: Failure) -> None:
    host = Host("a.example", most=8, interval=0.0, first_probe=30.0)
    for _ in range(DOWN_AFTER):
        host.refuse_if_down(100.0)
        host.learn(100.0, 100.0, FetchError(failure))
    with pytest.raises(FetchError, match="not asked") as caught:
        host.refuse_if_down(100.0)
    assert (caught.value.failure, caught.value.again) == (failure, False)


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (Failure.HTTP_5XX, 3),
        (Failure.CONNECTION_LOST, 3),
        (Failure.CONNECTION_RESET, 3),
        (Failure.INCOMPLETE_BODY, 3),
        (Failure.TOO_SLOW, 3),
    ],
)
def test_faults_in_a_row_slow_it_down(failure: Failure, times: int) -> None:
    host = Host("a.example", most=8, interval=0.0, first_probe=30.0)
    for attempt in range(times):
        assert (host.pace, host.width) == (0.0, 8), attempt
        host.learn(100.0, 100.0, FetchError(failure))
    assert host.pace > 0
    assert host.width == 4
    for _ in range(20):
        host.learn(200.0, 200.0, None)
    assert (host.pace, host.width) == (0.0, 8)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FetchError(Failure.HTTP_429, status=429, retry_after=60.0), "a.example asks for 60 s"),
        (FetchError(Failure.HTTP_503, status=503), "a.example is slowed down after its trouble: the next turn is in 1 s"),
    ],
)
def test_who_is_throttled_is_told_by_whom(error: FetchError, said: str) -> None:
    async def run() -> None:
        host = Host("a.example", most=8, interval=0.0, first_probe=30.0)
        waiter = Waiter(Patience(0.1), asyncio.get_running_loop().create_future())
        host.waiting.append(waiter)
        host.learn(100.0, 100.0, error)
        with pytest.raises(FetchError, match=said) as caught:
            await waiter.turn
        assert caught.value.failure is Failure.THROTTLED

    asyncio.run(run())
