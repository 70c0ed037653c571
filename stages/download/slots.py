"""How many downloads may be under way: as many as there are connections, and no more than a budget of bytes has room for."""

import asyncio
from collections import deque

_FIRST_GUESS = 1_000_000.0  # bytes of a body, before any has been seen: more than usual, to be on the safe side
_UP, _DOWN = 0.2, 0.02  # weight of the newest body in the running mean, by which side of it it is on
_SPARE = 1.5  # times the mean: what is set aside for each body under way


class Slots:
    """Where a download waits for its turn, first come, first served. A slot is held from the request until the body is decoded.

    Nobody knows how large a body will be before it comes. So the budget is kept by the mean of those that came, which follows
    larger ones at once and smaller ones slowly; what finished rows keep in memory, until their batch is complete, is known.
    There is always one slot, or a batch that fills the budget would never be complete. Lives on the network loop.
    """

    def __init__(self, connections: int, inflight_bytes: int) -> None:
        self._connections = connections
        self._budget = inflight_bytes
        self._usual = _FIRST_GUESS
        self._kept = 0  # bytes of finished rows
        self._held = 0  # slots
        self._waiting: deque[asyncio.Future[None]] = deque()

    def most(self) -> int:
        """Slots that there are at the moment."""
        return max(1, min(self._connections, int((self._budget - self._kept) / (_SPARE * self._usual))))

    async def acquire(self) -> None:
        """Wait for a slot, and take it."""
        if not self._waiting and self._held < self.most():
            self._held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the same round of the loop
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._held -= 1
        self._wake()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exception: object) -> None:
        self.release()

    def received(self, body: int) -> None:
        """A body of so many bytes came."""
        self._usual += (_UP if body > self._usual else _DOWN) * (body - self._usual)

    def keep(self, size: int) -> None:
        """A finished row keeps so many bytes; a negative number: it does no more."""
        self._kept += size
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._held < self.most():
            turn = self._waiting.popleft()
            if not turn.done():  # else cancelled
                self._held += 1
                turn.set_result(None)
