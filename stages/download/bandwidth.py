"""A cap on bytes per second that slows down who comes next, and never whom it has let through."""

import asyncio

_FIRST_GUESS = 200_000.0  # bytes of a body, before any has been seen
_WEIGHT = 0.1  # of the newest body in the running mean
_CREDIT_SECONDS = 1.0  # of the cap that may be saved up while nothing comes


class Bandwidth:
    """Lets downloads begin so that their bytes average to the cap. Lives on the network loop.

    A download that has begun is not slowed, so that its deadline means what it says. Instead each pays for a body of the
    usual size before it begins, and the difference to what it took in truth is settled when it is over.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._paid_until = 0.0  # on the loop's clock
        self._usual = _FIRST_GUESS
        self._line = asyncio.Lock()  # who waits, waits in line
        self._settled = asyncio.Event()

    async def enter(self) -> float:
        """Wait for room. Returns the bytes that were paid for."""
        async with self._line:
            clock = asyncio.get_running_loop().time
            while (wait := self._paid_until - clock()) > 0:
                self._settled.clear()
                try:
                    await asyncio.wait_for(self._settled.wait(), wait)
                except asyncio.TimeoutError:
                    continue
            self._paid_until = max(self._paid_until, clock() - _CREDIT_SECONDS) + self._usual / self._rate
            return self._usual

    def leave(self, paid: float, received: int) -> None:
        """A download is over that has paid for so many bytes, and received so many."""
        self._paid_until += (received - paid) / self._rate
        if received:
            self._usual += _WEIGHT * (received - self._usual)
        self._settled.set()
