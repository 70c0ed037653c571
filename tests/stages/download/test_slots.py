"""Slots: connections and a budget of bytes, first come, first served."""

import asyncio

import pytest

from pairsift.stages.download.slots import Slots


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_no_more_than_connections() -> None:
    async def scenario() -> None:
        slots = Slots(2, 10**12)
        await slots.acquire()
        await slots.acquire()
        third = asyncio.ensure_future(slots.acquire())
        await settle()
        assert not third.done()
        slots.release()
        await asyncio.wait_for(third, 1)

    asyncio.run(scenario())


def test_first_come_first_served() -> None:
    async def scenario() -> list[int]:
        slots, order = Slots(1, 10**12), []

        async def visit(number: int) -> None:
            async with slots:
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(visit(number) for number in range(20)))
        return order

    assert asyncio.run(scenario()) == list(range(20))


def test_large_bodies_make_fewer_slots_and_small_ones_more() -> None:
    slots = Slots(100, 100_000_000)
    for _ in range(30):
        slots.received(20_000_000)
    assert 3 <= slots.most() <= 5  # 60 to 100 MB
    for _ in range(600):
        slots.received(100_000)
    assert slots.most() == 100


def test_bodies_under_way_stay_within_the_budget() -> None:
    """Bodies of 5 MB after a thousand small ones: what is held is more than the budget for a moment at most."""

    async def scenario() -> tuple[int, int]:
        slots, held, peaks = Slots(256, 64_000_000), 0, []

        async def visit(size: int) -> None:
            nonlocal held
            async with slots:
                await asyncio.sleep(0)
                held += size
                slots.received(size)
                peaks.append(held)
                await asyncio.sleep(0)
                held -= size

        await asyncio.gather(*(visit(100_000) for _ in range(1000)))
        peaks.clear()
        await asyncio.gather(*(visit(5_000_000) for _ in range(1000)))
        return max(peaks[300:]), len(peaks)

    peak, bodies = asyncio.run(scenario())
    assert bodies == 1000
    assert peak <= 64_000_000


def test_finished_rows_count_and_one_slot_always_stays() -> None:
    async def scenario() -> None:
        slots = Slots(10, 15_000_000)
        slots.keep(15_000_000)
        assert slots.most() == 1
        await slots.acquire()
        second = asyncio.ensure_future(slots.acquire())
        await settle()
        assert not second.done()
        slots.keep(-15_000_000)
        await asyncio.wait_for(second, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("given_in_the_same_round", [False, True])
def test_who_is_cancelled_leaves_its_turn_to_the_next(given_in_the_same_round: bool) -> None:
    async def scenario() -> None:
        slots = Slots(1, 10**12)
        await slots.acquire()
        second, third = (asyncio.ensure_future(slots.acquire()) for _ in range(2))
        await settle()
        if given_in_the_same_round:
            slots.release()
            second.cancel()
        else:
            second.cancel()
            slots.release()
        await asyncio.wait_for(third, 1)
        slots.release()
        await asyncio.wait_for(slots.acquire(), 1)

    asyncio.run(scenario())
