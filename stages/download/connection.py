"""One connection that speaks HTTP/1.1 (RFC 9112): one request at a time, and its answer.

llhttp parses what comes, by way of httptools. A body whose length its head states is received right into its place, past the
parser; any other comes in pieces, and no more of it is read than somebody takes.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

import httptools
from multidict import CIMultiDict, CIMultiDictProxy

from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

READ_BYTES = 65536  # that one read of a connection may bring, other than into a body's place
MAX_WAITING = READ_BYTES  # beyond so many bytes that nobody has taken, a connection is not read
MAX_HEAD_BYTES = 131_072  # of an answer, its 1xx forerunners included; and between two pieces of a body
_NO_BODY = (204, 304)
_ENDLESS = 1e6  # seconds; one deadline rules all: see Fetcher.fetch


class Head(NamedTuple):
    """What an answer says before its body."""

    status: int
    headers: CIMultiDictProxy[str]  # values with what is no UTF-8 as surrogates
    length: int | None  # bytes of the body as it is sent; None where the body itself says where it ends
    until_close: bool = False  # the body ends with the connection


class Connection(asyncio.BufferedProtocol):
    """The protocol of a connection. `scratch` is memory that all connections of a loop share: nothing stays in it.

    It breaks by an exception, which whoever waits gets: FetchError with CONNECTION_LOST, CONNECTION_RESET, HEADERS_TOO_LARGE,
    PROTOCOL_ERROR, INCOMPLETE_BODY or BAD_CHUNKS, or what somebody else says by `fail`.
    """

    def __init__(self, scratch: memoryview, sock: socket.socket, when_lost: "Callable[[Connection], None]") -> None:
        self._scratch = scratch
        self._socket = sock
        self._when_lost = when_lost
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[None] | None = None  # whoever waits for something to come
        self._parser: httptools.HttpResponseParser | None = None
        self._error: FetchError | None = None
        self._keep_alive = True
        self._paused = False
        self.lost = False  # it is no more
        self._begin(ended=True)

    def _begin(self, *, ended: bool) -> None:
        self._ended = ended  # all of the answer has come, or none was asked for
        self._fields: list[tuple[str, str]] = []
        self._head: Head | None = None
        self._pieces = bytearray()  # of a body, until somebody takes them
        self._place: memoryview | None = None  # of a body of known length, with one byte more
        self._unheeded = 0  # bytes since the last that were of any use
        self.heard = False  # whether anything has come since the request
        self.received = 0  # bytes of body, as they were sent

    async def ask(self, request: bytes) -> Head:
        """Send a request, and wait for the head of its answer."""
        self._begin(ended=False)
        self._parser = httptools.HttpResponseParser(self)
        # As browsers do, take old and careless servers' line ends, folded lines and control characters.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._transport.write(request)
        while True:
            await self._something()
            if self._head is not None:
                return self._head

    async def whole(self, size: int) -> bytes:
        """The body of an answer that states its length, `size`. Who waits for it is woken once."""
        if self.received == size:
            return self._taken()
        place = memoryview(bytearray(size + 1))  # what comes behind the body shows in the one byte more
        place[: self.received] = self._taken()
        self._place = place
        self._resume()
        while not self._ended:
            await self._something()
        self._place = None
        return bytes(place[:size])

    async def some(self) -> bytes:
        """What has come of a body since it was asked last; at its end, nothing."""
        while not (self._pieces or self._ended):
            await self._something()
        self._resume()
        return self._taken()

    async def secured(self, context: ssl.SSLContext, name: str) -> "Connection":
        """TLS over this connection, with whoever is at its other end. Raises OSError, FetchError."""
        if self.received or self._pieces or self._error is not None:
            raise FetchError(Failure.TLS_ERROR, "the proxy says more than it was asked")
        self._ended, self._parser = True, None
        inner = Connection(self._scratch, self._socket, self._when_lost)
        inner.connection_made(self._transport)  # it may hear something before `start_tls` is over
        transport = await self._loop.start_tls(
            self._transport, inner, context, server_hostname=name, ssl_handshake_timeout=_ENDLESS
        )
        if transport is None:
            raise ConnectionResetError("hung up in the handshake")
        inner.connection_made(transport)
        return inner

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: the last answer is whole, and the server has neither hung up nor said anything
        unasked, which would be taken for the answer to whatever is asked next."""
        if not (self._ended and self._keep_alive) or self.lost or self._transport.is_closing():
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False  # TLS has messages of its own, but those come with its handshake, or end it

    def fail(self, error: FetchError) -> None:
        """Nothing more is to come of this connection."""
        if self._error is None:
            self._error = error
            self._wake()
        self.close()

    def close(self) -> None:
        """At once, whatever is under way."""
        self._keep_alive = False
        self._parser = None  # it refers to us
        self._transport.abort()

    async def _something(self) -> None:
        """Wait until something has come."""
        if self._error is not None:
            raise self._error
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _taken(self) -> bytes:
        taken = bytes(self._pieces)
        self._pieces.clear()
        return taken

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, _: int) -> memoryview:
        return self._scratch if self._place is None or self._ended else self._place[self.received :]

    def buffer_updated(self, count: int) -> None:
        self.heard = True
        if self._parser is None:  # nobody wants it any more; asyncio of Python 3.10 goes on with what TLS had in hand
            self.close()
        elif self._place is not None:
            self.received += count
            if self.received + 1 >= len(self._place):
                self._keep_alive &= self.received < len(self._place)
                self._end()
        else:
            self._parse(count)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._parser = None
        if not self._ended and self._error is None:
            self._broken(error)
        self._when_lost(self)

    def _broken(self, error: Exception | None) -> None:
        head = self._head
        if isinstance(error, ConnectionResetError):
            self._error = FetchError(Failure.CONNECTION_RESET, str(error))
        elif head is None:
            self._error = FetchError(Failure.CONNECTION_LOST, str(error or "the server hung up"))
        elif head.until_close and error is None:
            self._ended = True
        else:
            self._error = FetchError(Failure.INCOMPLETE_BODY, f"the connection ended after {self.received} bytes")
        self._wake()

    def _parse(self, count: int) -> None:
        assert self._parser is not None
        self._unheeded += count
        try:
            self._parser.feed_data(self._scratch[:count])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._ended:
                self._keep_alive = False
            else:
                self.fail(FetchError(Failure.PROTOCOL_ERROR if self._head is None else Failure.BAD_CHUNKS, str(error)))
        else:
            if self._unheeded > MAX_HEAD_BYTES and not self._ended:
                failure = Failure.HEADERS_TOO_LARGE if self._head is None else Failure.BAD_CHUNKS
                self.fail(FetchError(failure, f"more than {MAX_HEAD_BYTES} bytes"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return  # behind a body's last chunk
        if b"\0" in value:
            raise self._refused("a null byte in a header")
        self._fields.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status == 101 or status < 100:
            raise self._refused(f"status {status}")
        if status < 200:
            self._fields.clear()
            return
        headers = CIMultiDictProxy(CIMultiDict(self._fields))
        stated = headers.get("Content-Length")  # never beside Transfer-Encoding: the parser refuses that
        length = 0 if status in _NO_BODY else None if stated is None else int(stated)
        encodings = ",".join(headers.getall("Transfer-Encoding", ())).lower()
        chunked = encodings.rpartition(",")[2].strip() == "chunked"
        self._keep_alive = self._parser.should_keep_alive()
        self._head = Head(status, headers, length, until_close=length is None and not chunked)
        self._unheeded = 0
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._pieces += data
        self.received += len(data)
        self._unheeded = 0
        if len(self._pieces) > MAX_WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._head is not None:
            self._end()

    def _refused(self, detail: str) -> FetchError:
        """To be raised through the parser, which says less of it."""
        error = FetchError(Failure.PROTOCOL_ERROR, detail)
        self.fail(error)
        return error

    def _end(self) -> None:
        self._ended = True
        self._parser = None
        self._resume()
        self._wake()
