"""The HTTP session that one worker shares, and how far each request in it has come."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from pairsift.stages.download.addresses import AddressRule, Resolver
from pairsift.stages.fates import Failure

READ_BYTES = 65536  # twice this may wait in a connection's buffer before its server is made to wait
_MAX_HEADER_BYTES = 16384  # of one header field, and of the status line; aiohttp takes 128 fields
_DNS_SECONDS = 300  # how long a name's addresses are kept; a list of URLs asks for the same hosts again and again
_KEEP_ALIVE_SECONDS = 5  # idle connections cost a file descriptor each, and most hosts of a web-wide list come up once


class Progress:
    """What a request waits for, so that a deadline that runs out can say so: the code of the fate it would have now."""

    __slots__ = ("_phase", "_protocol")

    def __init__(self) -> None:
        self._phase = Failure.CONNECT_TIMEOUT
        self._protocol: _Protocol | None = None

    def enter(self, phase: Failure) -> None:
        self._phase = phase

    def connected(self, protocol: "_Protocol | None") -> None:
        """There is a connection, new or kept alive, and the request goes out on it."""
        self._phase, self._protocol = Failure.NO_ANSWER, protocol
        if protocol is not None:
            protocol.heard = False

    @property
    def failure(self) -> Failure:
        """DNS_TIMEOUT, CONNECT_TIMEOUT, TLS_TIMEOUT, NO_ANSWER, SLOW_HEADERS or TIMEOUT."""
        if self._phase is Failure.NO_ANSWER and self._protocol is not None and self._protocol.heard:
            return Failure.SLOW_HEADERS
        return self._phase


# Of the request that the running task is at. aiohttp hands nothing of ours on to its connector.
_progress: ContextVar[Progress] = ContextVar("progress")


def watched() -> Progress:
    """The progress of the next request of the running task."""
    progress = Progress()
    _progress.set(progress)
    return progress


class _Protocol(ResponseHandler):
    """Remembers whether anything has come since the last request."""

    heard = False

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)


class _Connector(aiohttp.TCPConnector):
    """Notes each request's progress. And a connection on which a server has said something unasked is not used again: aiohttp
    would take it for the answer to whatever is asked next, and one row's answer must not become another's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._connection_made  # type: ignore[assignment]  # aiohttp has a partial there

    def _connection_made(self) -> _Protocol:
        """Called once TCP has a connection, before TLS begins."""
        progress = _progress.get(None)
        if progress is not None:
            progress.enter(Failure.TLS_TIMEOUT)
        return _Protocol(self._loop)

    async def _resolve_host(self, *args: Any, **options: Any) -> Any:
        progress = _progress.get(None)
        if progress is None:
            return await super()._resolve_host(*args, **options)
        progress.enter(Failure.DNS_TIMEOUT)
        found = await super()._resolve_host(*args, **options)
        progress.enter(Failure.CONNECT_TIMEOUT)
        return found

    async def connect(self, *args: Any, **options: Any) -> Any:
        connection = await super().connect(*args, **options)
        progress = _progress.get(None)
        if progress is not None:
            progress.connected(connection.protocol)  # type: ignore[arg-type]  # ours: see _connection_made
        return connection

    async def _get(self, *args: Any, **options: Any) -> Any:
        while (connection := await super()._get(*args, **options)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


def open_session(
    user_agent: str, connections: int, allow_private_addresses: bool | Sequence[str], proxy: str | None = None
) -> aiohttp.ClientSession:
    """The session that one worker shares: keep-alive, DNS cache, no cookies, no proxies but the one that is named.

    To be called on the loop that will use it; close it there.
    """
    rule = AddressRule(allow_private_addresses)
    connector = _Connector(
        limit=connections,
        resolver=Resolver(rule),
        socket_factory=None if rule.allows_all else rule.socket,
        ttl_dns_cache=_DNS_SECONDS,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # one deadline rules them all: see Fetcher.fetch
        read_bufsize=READ_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        # Images are compressed already; an answer that is compressed all the same is decoded, and counted decoded.
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
    )
