"""How many downloads may be under way, and how many bytes they and what has come of them may hold.

Each download has a share from its request until its body is decoded: a slot, and bytes. Two bounds hold:

- A soft one keeps most downloads from ever having to wait in mid-body: there are no more slots than the budget has room for
  bodies of the usual size.
- A hard one is kept to the byte. A body's Content-Length is taken before it is read; a body without one takes more as it comes.
  Where the budget is used up, a body waits: its connection is not read, so that its server has to wait.

So that nobody waits for ever there is always one slot; and of those who wait, the oldest row goes on in any case, one at a
time. That is why the bytes held may exceed the budget by one body. Rows get older in the order in which their units came, so
that it is the oldest unit that comes to its end, and gives back its images. An image counts once it is finished.
"""

import asyncio
import heapq
from itertools import count

from pairsift.stages.download.connection import MAX_WAITING, READ_BYTES

SLOT_BYTES = READ_BYTES + MAX_WAITING  # what a connection may have read before anybody looks at it
_FIRST_GUESS = 1_000_000.0  # bytes of a body, before any has been seen: more than usual, to be on the safe side
_UP, _DOWN = 0.2, 0.02  # weight of the newest body in the running mean, by which side of it it is on
_SPARE = 1.5  # times the mean: what is set aside for each body under way


class Share:
    """What one download holds. `age`: its row's number; lower ones are older."""

    __slots__ = ("age", "size")

    def __init__(self, age: int, size: int) -> None:
        self.age = age
        self.size = size  # bytes


_Turn = tuple[int, int, int, "asyncio.Future[Share]"]  # age, order of coming, bytes
_Growth = tuple[int, int, int, Share, "asyncio.Future[None]"]  # age, order of coming, bytes, of whom


class Slots:
    """All shares of one worker. Lives on the network loop."""

    def __init__(self, connections: int, inflight_bytes: int) -> None:
        self._connections = connections
        self._budget = inflight_bytes
        self._usual = _FIRST_GUESS
        self._kept = 0  # bytes of finished rows
        self._under_way = 0  # bytes of shares
        self._held = 0  # slots
        self._turns: list[_Turn] = []  # heap
        self._growing: list[_Growth] = []  # heap
        self._ahead: Share | None = None  # who goes on although the budget is used up
        self._order = count(1)

    @property
    def used(self) -> int:
        """Bytes that shares and finished rows hold."""
        return self._under_way + self._kept

    def most(self) -> int:
        """Slots that there are at the moment."""
        each = max(SLOT_BYTES, _SPARE * self._usual)
        return max(1, min(self._connections, int((self._budget - self._kept) / each)))

    def age(self) -> int:
        """That of a row that comes now."""
        return next(self._order)

    async def acquire(self, age: int | None = None, size: int = SLOT_BYTES) -> Share:
        """Wait for a slot, and for so many bytes, and take them. Who has no `age` comes before all rows."""
        age = age or 0
        if not self._turns and not self._growing and self._has_slot(size):
            return self._given(age, size)
        turn: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._turns, (age, next(self._order), size, turn))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the same round of the loop
                self.release(turn.result())
            raise

    def grow(self, share: Share, size: int) -> bool:
        """Take so many bytes in all, if that is possible without waiting. Never takes less than there is already."""
        more = size - share.size
        if more > 0:
            if share is not self._ahead and (self._growing or not self._fits(more)):
                return False
            self._add(share, more)
        return True

    async def wait_to_grow(self, share: Share, size: int) -> None:
        """Wait for that."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._growing, (share.age, next(self._order), size, share, turn))
        self._wake()
        await turn

    def shrink(self, share: Share, size: int) -> None:
        """All of a body is there, and it has so many bytes."""
        self._usual += (_UP if size > self._usual else _DOWN) * (size - self._usual)
        if size < share.size:
            self._add(share, size - share.size)
            self._wake()

    def release(self, share: Share) -> None:
        """Give everything back."""
        self._held -= 1
        self._under_way -= share.size
        if share is self._ahead:
            self._ahead = None
        self._wake()

    def keep(self, size: int) -> None:
        """A finished row keeps so many bytes; a negative number: it does no more."""
        self._kept += size
        self._wake()

    def _fits(self, more: int) -> bool:
        return self._under_way + self._kept + more <= self._budget

    def _has_slot(self, size: int) -> bool:
        return not self._held or (self._held < self.most() and self._fits(size))

    def _add(self, share: Share, more: int) -> None:
        share.size += more
        self._under_way += more

    def _given(self, age: int, size: int) -> Share:
        self._held += 1
        self._under_way += size
        return Share(age, size)

    def _wake(self) -> None:
        if self._growing and not self._grown():
            return
        while self._turns:
            age, _, size, turn = self._turns[0]
            if not turn.done():  # else cancelled
                if not self._has_slot(size):
                    return
                turn.set_result(self._given(age, size))
            heapq.heappop(self._turns)

    def _grown(self) -> bool:
        """Let those go on who may; whether nobody is left waiting."""
        while self._growing:
            _, _, size, share, turn = self._growing[0]
            if not turn.done():  # else cancelled
                more = size - share.size
                if not self._fits(more):
                    if self._ahead is not None and self._over_budget():
                        return False
                    self._ahead = share
                self._add(share, more)
                turn.set_result(None)
            heapq.heappop(self._growing)
        return True

    def _over_budget(self) -> bool:
        return self.used > self._budget
