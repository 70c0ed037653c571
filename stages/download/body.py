"""An answer's body, read no faster than there is room for it, and no slower than its server may be."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

from multidict import CIMultiDictProxy
from yarl import URL

from pairsift.stages.download.client import Answer
from pairsift.stages.download.coding import Pieces, coding_of, pieces_of
from pairsift.stages.download.connection import Connection, Head
from pairsift.stages.download.deadline import Deadline
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.slots import SLOT_BYTES
from pairsift.stages.fates import Failure

_HTTP_FAILURES = {
    403: Failure.HTTP_403,
    404: Failure.HTTP_404,
    410: Failure.HTTP_410,
    429: Failure.HTTP_429,
    503: Failure.HTTP_503,
}


@dataclass(frozen=True)
class Limits:
    """What one attempt may take."""

    timeout: float  # seconds, from the first DNS query to the last byte, redirects included
    max_bytes: int  # of the body, after content decoding
    max_redirects: int
    min_rate: float = 0  # bytes of body per second, on average since its headers came; 0: any
    rate_grace: float = 3.0  # seconds that a body may take to get going, before its rate is looked at


class Visit:
    """What one row asks of the hosts that it comes to. This one asks nothing: see `manners`."""

    received = 0  # bytes of bodies

    async def enter(self, url: URL) -> None:
        """Wait until the URL may be asked for. Raises FetchError where it may not."""

    def leave(self, error: FetchError | None = None) -> None:
        """The hop that `enter` let through is over."""

    def check_headers(self, headers: CIMultiDictProxy[str]) -> None:
        """Look at an answer's headers before its body is read. Raises FetchError where the body is not to be had."""

    def grow(self, size: int) -> bool:  # noqa: ARG002 - this one has room for anything
        """Whether there is room for a body of so many bytes, without waiting. If so, it is taken."""
        return True

    async def wait_to_grow(self, size: int) -> None:
        """Wait for that room, and take it."""


async def read_body(answer: Answer, limits: Limits, visit: Visit, deadline: Deadline) -> bytes:
    """The body of an answer that has one, its content encoding undone; at least one byte.

    Time that is spent waiting for room counts neither towards the deadline nor towards `min_rate`.

    Raises FetchError.
    """
    head, connection = answer.head, answer.connection
    check_status(head)
    visit.check_headers(head.headers)
    coding = coding_of(head)
    if head.length is not None and head.length > limits.max_bytes:
        raise FetchError(Failure.TOO_MANY_BYTES, f"Content-Length {head.length}, max_bytes is {limits.max_bytes}")
    with _RateWatch(connection, limits) as watch:
        room = _Room(visit, deadline, watch)
        try:
            if coding is None and head.length is not None:
                await room.for_bytes(head.length)
                body = await connection.whole(head.length)
            else:
                too_many = Failure.TOO_MANY_BYTES if coding is None else Failure.COMPRESSION_BOMB
                pieces = pieces_of(connection, coding, limits.max_bytes)
                body = await _in_pieces(pieces, limits.max_bytes, room, too_many)
        finally:
            visit.received += connection.received
    if not body:
        raise FetchError(Failure.EMPTY_BODY, f"status {head.status}")
    return body


async def read_beginning(answer: Answer, max_bytes: int) -> bytes:
    """At most the first `max_bytes` of a body, its content encoding undone. Raises FetchError."""
    pieces = pieces_of(answer.connection, coding_of(answer.head), max_bytes)
    body = bytearray()
    while len(body) < max_bytes and (piece := await pieces.some()):
        body += piece
    return bytes(body[:max_bytes])


async def _in_pieces(pieces: Pieces, max_bytes: int, room: "_Room", too_many: Failure) -> bytes:
    body = bytearray()
    while piece := await pieces.some():
        body += piece
        if len(body) > max_bytes:
            raise FetchError(too_many, f"max_bytes is {max_bytes}")
        await room.for_bytes(len(body) + SLOT_BYTES)  # what may come while it is not looked at included
    return bytes(body)


class _Room:
    """Room for one body under way."""

    def __init__(self, visit: Visit, deadline: Deadline, watch: "_RateWatch") -> None:
        self.watch = watch
        self._visit = visit
        self._deadline = deadline

    async def for_bytes(self, size: int) -> None:
        """Wait until the body may have so many. Its connection is not read meanwhile, so that its server has to wait, too."""
        if not self._visit.grow(size):
            with self._deadline.paused(), self.watch.paused():
                await self._visit.wait_to_grow(size)


class _RateWatch:
    """While a body comes: TOO_SLOW is raised to its reader once there is less than `min_rate` bytes per second on average,
    after the grace. It costs one timer per body, which mostly never fires."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection, self._limits = connection, limits

    def __enter__(self) -> "_RateWatch":
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer = self._loop.call_at(self._began + self._limits.rate_grace, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in which nothing is read."""
        self._timer.cancel()
        since, due = self._loop.time(), self._timer.when()
        try:
            yield
        finally:
            waited = self._loop.time() - since
            self._began += waited
            self._timer = self._loop.call_at(due + waited, self._look)

    def _look(self) -> None:
        min_rate = self._limits.min_rate
        seconds = self._loop.time() - self._began
        received = self._connection.received
        if received < min_rate * seconds:
            detail = f"{received} bytes of body in {seconds:.1f} s, min_rate is {min_rate:g} bytes/s"
            self._connection.fail(FetchError(Failure.TOO_SLOW, detail, again=False))
        elif min_rate:
            enough_for = received / min_rate  # seconds; at least a few milliseconds from now, not to spin
            self._timer = self._loop.call_at(self._began + max(enough_for, seconds + 0.01), self._look)


def check_status(head: Head) -> None:
    """Raises FetchError for whatever is no 2xx."""
    status = head.status
    if 200 <= status < 300:
        return
    if 400 <= status < 600:
        failure = _HTTP_FAILURES.get(status, Failure.HTTP_4XX if status < 500 else Failure.HTTP_5XX)
    else:
        raise FetchError(Failure.PROTOCOL_ERROR, f"status {status}")
    wait = retry_after(head.headers.get("Retry-After")) if failure.transient else None
    raise FetchError(failure, str(status), status=status, retry_after=wait)


def retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for (RFC 9110, 10.2.3): a number of seconds, or a date. None where
    there is none, or none that can be read."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value.strip())
    try:
        date = parsedate_to_datetime(value)
        moment = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - time.time())
