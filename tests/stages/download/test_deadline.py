"""A deadline: what counts, what does not, and whose cancelling it is."""

import asyncio

import pytest

from pairsift.stages.download.deadline import Deadline, OutOfTimeError


def test_work_that_takes_too_long_is_ended() -> None:
    async def scenario() -> None:
        deadline = Deadline(0.05)
        with pytest.raises(OutOfTimeError), deadline.running():
            await asyncio.sleep(5)
        await asyncio.sleep(0)  # the task itself was not cancelled

    asyncio.run(scenario())


def test_pauses_and_what_is_outside_do_not_count() -> None:
    async def scenario() -> None:
        deadline = Deadline(0.2)
        for _ in range(3):
            with deadline.running():
                await asyncio.sleep(0.03)
                with deadline.paused():
                    await asyncio.sleep(0.15)
            await asyncio.sleep(0.1)
        with pytest.raises(OutOfTimeError), deadline.running():
            await asyncio.sleep(0.15)

    asyncio.run(scenario())


async def closes_its_socket() -> None:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        raise OSError("the socket was closed") from None


def test_an_error_that_the_end_of_time_was_turned_into_is_no_other_error() -> None:
    async def scenario() -> None:
        with pytest.raises(OutOfTimeError), Deadline(0.01).running():
            await closes_its_socket()

    asyncio.run(scenario())


def test_other_errors_and_cancelling_pass_through() -> None:
    async def work(deadline: Deadline) -> None:
        with deadline.running():
            await asyncio.sleep(5)

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError), Deadline(5).running():
            raise ZeroDivisionError
        task = asyncio.ensure_future(work(Deadline(5)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
