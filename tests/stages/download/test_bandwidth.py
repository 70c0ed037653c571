import asyncio

from pairsift.stages.download.bandwidth import Bandwidth


def test_bytes_average_to_the_cap_whatever_the_bodies_weigh() -> None:
    sizes = [50_000, 600_000, 0, 10_000] * 6
    rate = 2_000_000

    async def work() -> float:
        bandwidth = Bandwidth(rate)

        async def one(size: int) -> None:
            paid = await bandwidth.enter()
            await asyncio.sleep(0.01)
            bandwidth.leave(paid, size)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(one(size) for size in sizes))
        return asyncio.get_running_loop().time() - began

    seconds = asyncio.run(work())
    assert sum(sizes) / rate - 1.4 <= seconds <= sum(sizes) / rate + 0.5


def test_what_is_not_received_is_given_back() -> None:
    async def work() -> float:
        bandwidth = Bandwidth(1000)
        began = asyncio.get_running_loop().time()
        for _ in range(20):
            bandwidth.leave(await bandwidth.enter(), 0)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(work()) < 1
