"""An answer's body, read no faster than there is room for it, and no slower than its server may be."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from pairsift.stages.download.deadline import Deadline
from pairsift.stages.download.errors import FetchError, failure_of_parser, one_line
from pairsift.stages.download.slots import SLOT_BYTES
from pairsift.stages.fates import Failure

_HTTP_FAILURES = {
    403: Failure.HTTP_403,
    404: Failure.HTTP_404,
    410: Failure.HTTP_410,
    429: Failure.HTTP_429,
    503: Failure.HTTP_503,
}
_CODINGS = ("", "identity", "gzip", "deflate")  # others depend on what else is installed, and nobody asked for any


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


async def read_body(response: aiohttp.ClientResponse, limits: Limits, visit: Visit, deadline: Deadline) -> bytes:
    """The body of an answer that has one, its content encoding undone; at least one byte.

    Time that is spent waiting for room counts neither towards the deadline nor towards `min_rate`.

    Raises FetchError; aiohttp's exceptions for what breaks on the connection.
    """
    check_status(response)
    visit.check_headers(response.headers)
    coded = check_coding(response.headers.getall("Content-Encoding", ()))
    length = response.content_length
    if length is not None and length > limits.max_bytes:
        raise FetchError(Failure.TOO_MANY_BYTES, f"Content-Length {length}, max_bytes is {limits.max_bytes}")
    known = None if coded or "Transfer-Encoding" in response.headers else length
    too_many = Failure.COMPRESSION_BOMB if coded else Failure.TOO_MANY_BYTES
    with _RateWatch(response.content, limits) as watch, _woken_by_nonsense(response):
        try:
            body = await _received(response, known, limits.max_bytes, _Room(visit, deadline, watch), too_many)
        finally:
            visit.received += watch.received
    if not body:
        raise FetchError(Failure.EMPTY_BODY, f"status {response.status}")
    return body


async def _received(
    response: aiohttp.ClientResponse, known: int | None, max_bytes: int, room: "_Room", too_many: Failure
) -> bytes:
    """All of a body. `known`: how many bytes it will have, where that is known."""
    if known is not None:
        await room.for_bytes(known)
        return await _whole(response, known)
    content, body = response.content, bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(too_many, f"max_bytes is {max_bytes}")
        if content.at_eof():
            break
        await room.for_bytes(len(body) + SLOT_BYTES)  # what may come while it is not looked at included
    return bytes(body)


async def _whole(response: aiohttp.ClientResponse, size: int) -> bytes:
    """All of a body of so many bytes, for which there is room. Who waits for it is woken once, at its end."""
    content, connection = response.content, response.connection
    content.set_read_chunk_size(size)  # its connection is not stopped any more
    if connection is not None and connection.protocol is not None:
        connection.protocol.resume_reading()  # where it was stopped before
    if content.exception() is None:
        await content.wait_eof()
    return content.read_nowait()


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


@contextmanager
def _woken_by_nonsense(response: aiohttp.ClientResponse) -> Iterator[None]:
    """aiohttp 3.14 closes a connection on which chunks make no sense, but leaves whoever reads the body to wait."""
    content, connection = response.content, response.connection
    if connection is None or connection.protocol is None:  # all of the body is here
        yield
        return
    protocol, closed = connection.protocol, connection.protocol.closed

    def wake(_: object = None) -> None:
        error = protocol.exception()
        if isinstance(error, HttpProcessingError) and not content.is_eof() and content.exception() is None:
            failure = failure_of_parser([error, *([error.__cause__] if error.__cause__ else [])], Failure.BAD_CHUNKS)
            content.set_exception(FetchError(failure, one_line(error)))

    if closed is None:
        wake()
        yield
        return
    closed.add_done_callback(wake)
    try:
        yield
    finally:
        closed.remove_done_callback(wake)
        closed.remove_done_callback(_look_at)  # once per connection, however many bodies come over it
        closed.add_done_callback(_look_at)


def _look_at(closed: "asyncio.Future[None]") -> None:
    """An exception in a future that nobody has looked at is logged, and how a connection ended is no news here."""
    if not closed.cancelled():
        closed.exception()


class _RateWatch:
    """While `content` grows: TOO_SLOW is raised to the reader once there is less than `min_rate` bytes per
    second on average, after the grace. It costs one timer per body, which mostly never fires."""

    def __init__(self, content: aiohttp.StreamReader, limits: Limits) -> None:
        self._content, self._limits = content, limits

    @property
    def received(self) -> int:
        """Bytes, content encoding undone."""
        return self._content.total_bytes

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
        if self.received < min_rate * seconds:
            detail = f"{self.received} bytes of body in {seconds:.1f} s, min_rate is {min_rate:g} bytes/s"
            self._content.set_exception(FetchError(Failure.TOO_SLOW, detail, again=False))
        elif min_rate:
            enough_for = self.received / min_rate  # seconds; at least a few milliseconds from now, not to spin
            self._timer = self._loop.call_at(self._began + max(enough_for, seconds + 0.01), self._look)


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises FetchError for whatever is no 2xx."""
    status = response.status
    if 200 <= status < 300:
        return
    if 400 <= status < 600:
        failure = _HTTP_FAILURES.get(status, Failure.HTTP_4XX if status < 500 else Failure.HTTP_5XX)
    else:
        raise FetchError(Failure.PROTOCOL_ERROR, f"status {status}")
    wait = retry_after(response.headers.get("Retry-After")) if failure.transient else None
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


def check_coding(values: Sequence[str]) -> bool:
    """Whether there is a content encoding to undo. Nested ones multiply what one can blow up, and are never seen on images:
    one at most. Raises FetchError(BAD_ENCODING)."""
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    if len(codings) > 1 or any(coding not in _CODINGS for coding in codings):
        raise FetchError(Failure.BAD_ENCODING, f"Content-Encoding {', '.join(codings)[:100]!r}, though none was asked for")
    return bool(codings) and codings[0] not in ("", "identity")
