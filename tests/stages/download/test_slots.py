"""Slots: connections and a budget of bytes, the oldest first."""

import asyncio
import random

import pytest

from pairsift.stages.download.slots import SLOT_BYTES, Share, Slots

MB = 1_000_000


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_no_more_than_connections() -> None:
    async def scenario() -> None:
        slots = Slots(2, 10**12)
        first = await slots.acquire()
        await slots.acquire()
        third = asyncio.ensure_future(slots.acquire())
        await settle()
        assert not third.done()
        slots.release(first)
        await asyncio.wait_for(third, 1)

    asyncio.run(scenario())


def test_the_oldest_first_and_before_all_who_has_no_age() -> None:
    async def scenario() -> list[int | None]:
        slots, order = Slots(1, 10**12), []

        async def visit(age: int | None) -> None:
            share = await slots.acquire(age)
            order.append(age)
            await asyncio.sleep(0)
            slots.release(share)

        ages = [slots.age() for _ in range(20)]
        shuffled: list[int | None] = [None, *random.Random(3).sample(ages, 20), None]
        first = await slots.acquire()
        waiting = asyncio.gather(*(visit(age) for age in shuffled))
        await settle()
        slots.release(first)
        await waiting
        assert ages == sorted(ages)
        return order

    order = asyncio.run(scenario())
    assert order[:2] == [None, None]
    assert order[2:] == sorted(age for age in order if age is not None)


def test_large_bodies_make_fewer_slots_and_small_ones_more() -> None:
    async def scenario() -> None:
        slots = Slots(100, 100 * MB)
        share = await slots.acquire()
        for _ in range(30):
            slots.shrink(share, 20 * MB)
        assert 3 <= slots.most() <= 5  # 60 to 100 MB
        for _ in range(600):
            slots.shrink(share, 100_000)
        assert slots.most() == 100

    asyncio.run(scenario())


def test_finished_rows_count_and_one_slot_always_stays() -> None:
    async def scenario() -> None:
        slots = Slots(10, 15 * MB)
        slots.keep(15 * MB)
        assert slots.most() == 1
        await slots.acquire()
        second = asyncio.ensure_future(slots.acquire())
        await settle()
        assert not second.done()
        slots.keep(-15 * MB)
        await asyncio.wait_for(second, 1)

    asyncio.run(scenario())


async def grown(slots: Slots, share: Share, size: int) -> None:
    if not slots.grow(share, size):
        await slots.wait_to_grow(share, size)


async def download(slots: Slots, age: int, size: int, steps: int) -> None:
    """A body whose size is known (one step), or that comes piece by piece; and then its image, a tenth of that."""
    share = await slots.acquire(age)
    for step in range(1, steps + 1):
        await grown(slots, share, size * step // steps)
        await asyncio.sleep(0)
    slots.shrink(share, size)
    await asyncio.sleep(0)
    slots.release(share)
    slots.keep(size // 10)


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("largest", [20 * MB, 50 * MB])
def test_the_budget_is_kept_to_one_body_and_nobody_waits_for_ever(steps: int, largest: int) -> None:
    """With bodies of more than half the budget, too; 300 at a time, of all sizes, and the images of 50 are one batch."""
    budget, rng = 64 * MB, random.Random(steps)
    peak = 0

    class Watched(Slots):
        def _add(self, share: Share, more: int) -> None:
            nonlocal peak
            super()._add(share, more)
            peak = max(peak, self.used)

    async def scenario() -> None:
        slots = Watched(300, budget)

        async def batch() -> None:
            sizes = [int(largest * rng.random() ** 4) + 1 for _ in range(50)]
            await asyncio.gather(*(download(slots, slots.age(), size, steps) for size in sizes))
            slots.keep(-sum(size // 10 for size in sizes))

        await asyncio.wait_for(asyncio.gather(*(batch() for _ in range(20))), 30)
        assert slots.used == 0

    asyncio.run(scenario())
    assert budget / 2 < peak <= budget + largest + SLOT_BYTES


def test_of_those_who_wait_the_oldest_goes_on_alone() -> None:
    async def scenario() -> None:
        slots = Slots(10, 10 * MB)
        old, young, other = [await slots.acquire(slots.age()) for _ in range(3)]
        assert slots.grow(other, 9 * MB)
        assert not slots.grow(young, 8 * MB)
        first = asyncio.ensure_future(slots.wait_to_grow(young, 8 * MB))
        await settle()
        assert first.done()  # nobody else is beyond the budget
        second = asyncio.ensure_future(slots.wait_to_grow(old, 5 * MB))
        late = asyncio.ensure_future(slots.acquire(slots.age()))
        await settle()
        assert not second.done()
        assert slots.grow(young, 12 * MB)  # who is ahead does not wait again
        slots.release(young)
        await settle()
        assert second.done()
        assert not late.done()
        slots.release(old)
        await settle()
        assert late.done()

    asyncio.run(scenario())


def test_who_is_given_up_while_it_waits_to_grow_is_passed_over() -> None:
    async def scenario() -> None:
        slots = Slots(10, 10 * MB)
        ahead, waits, next_one = [await slots.acquire(slots.age()) for _ in range(3)]
        await grown(slots, ahead, 11 * MB)
        given_up = asyncio.ensure_future(slots.wait_to_grow(waits, 9 * MB))
        third = asyncio.ensure_future(slots.wait_to_grow(next_one, 9 * MB))
        await settle()
        given_up.cancel()
        await settle()
        slots.release(waits)
        assert not third.done()
        slots.release(ahead)
        await asyncio.wait_for(third, 1)
        slots.release(next_one)
        assert slots.used == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("given_in_the_same_round", [False, True])
def test_who_is_cancelled_leaves_its_turn_to_the_next(given_in_the_same_round: bool) -> None:
    async def scenario() -> None:
        slots = Slots(1, 10**12)
        first = await slots.acquire()
        second, third = (asyncio.ensure_future(slots.acquire()) for _ in range(2))
        await settle()
        if given_in_the_same_round:
            slots.release(first)
            second.cancel()
        else:
            second.cancel()
            slots.release(first)
        slots.release(await asyncio.wait_for(third, 1))
        await asyncio.wait_for(slots.acquire(), 1)

    asyncio.run(scenario())
