"""The HTTP client that one worker shares: keep-alive, a memory for names, one proxy at most, no cookies."""

import asyncio
import base64
import ssl
import sys
from collections import OrderedDict
from functools import partial

import aiohappyeyeballs
from yarl import URL

from pairsift.stages.base import ConfigError
from pairsift.stages.download.addresses import AddressRule, Resolver
from pairsift.stages.download.connection import READ_BYTES, Connection, Head
from pairsift.stages.download.errors import FetchError, of_connecting
from pairsift.stages.fates import Failure

_KEEP_ALIVE_SECONDS = 5.0  # idle connections cost a file descriptor each, and most hosts of a web-wide list come up once
_SWEEP_SECONDS = 0.5  # idle connections are closed together, at the latest so much later
_NEXT_ADDRESS_SECONDS = 0.25  # after which a name's next address is tried as well (RFC 8305, 5)

_Key = tuple[str, str, int]  # what a connection leads to: scheme, host, port


class Progress:
    """What a request waits for, so that a deadline that runs out can say so: the code of the fate it would have now."""

    __slots__ = ("_connection", "_phase")

    def __init__(self) -> None:
        self._phase = Failure.CONNECT_TIMEOUT
        self._connection: Connection | None = None

    def enter(self, phase: Failure) -> None:
        self._phase = phase

    def asking(self, connection: Connection) -> None:
        self._phase, self._connection = Failure.NO_ANSWER, connection

    @property
    def failure(self) -> Failure:
        """DNS_TIMEOUT, CONNECT_TIMEOUT, TLS_TIMEOUT, NO_ANSWER, SLOW_HEADERS or TIMEOUT."""
        if self._phase is Failure.NO_ANSWER and self._connection is not None and self._connection.heard:
            return Failure.SLOW_HEADERS
        return self._phase


class Answer:
    """To one request. Its body is to be read from `connection`, if at all; then `Client.release` it."""

    __slots__ = ("connection", "head", "key", "url")

    def __init__(self, url: URL, key: _Key, connection: Connection, head: Head) -> None:
        self.url, self.key, self.connection, self.head = url, key, connection, head


class Client:
    """Lives on one loop. `connections`: how many may be open before idle ones are closed; who uses it sees to it that no more
    than these are asked for. `rule` holds for the proxy, if there is one."""

    def __init__(
        self,
        user_agent: str,
        connections: int,
        rule: AddressRule,
        *,
        proxy: str | None = None,
        resolver: Resolver | None = None,
        keep_alive_seconds: float = _KEEP_ALIVE_SECONDS,
    ) -> None:
        self._rule = rule
        self._resolver = resolver or Resolver(rule)
        self._connections = connections
        self._keep_alive_seconds = keep_alive_seconds
        self._proxy = None if proxy is None else URL(proxy)
        if self._proxy is not None and self._proxy.scheme == "https" and sys.version_info < (3, 11):
            raise ConfigError("a proxy with https needs Python 3.11 or newer, whose asyncio has TLS within TLS")
        # Images are compressed already; an answer that is compressed all the same is decoded, and counted decoded.
        self._fields = f"User-Agent: {user_agent}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
        self._scratch = memoryview(bytearray(READ_BYTES))
        self._tls: ssl.SSLContext | None = None
        self._open: set[Connection] = set()
        self._connecting = 0
        self._idle: OrderedDict[Connection, tuple[_Key, float]] = OrderedDict()  # with until when; the oldest first
        self._idle_at: dict[_Key, dict[Connection, None]] = {}  # an ordered set: the one used last is the last
        self._sweep: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections, also those in use."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.close()
        await asyncio.sleep(0)  # transports let go of their sockets in the loop's next round

    async def get(self, url: URL, progress: Progress) -> Answer:
        """Ask for a URL, and wait for the head of the answer, whatever it is. Redirects are not followed.

        Raises:
            FetchError: there is no answer, or none that can be understood.
            OSError: this machine has run out of something.
            ConfigError: the proxy cannot be reached, or wants other credentials.
        """
        request = self._request(url)
        key = self._key(url)
        while True:
            kept = self._kept(key)
            connection = kept or await self._connect(url, progress)
            progress.asking(connection)
            try:
                head = await connection.ask(request)
                if self._proxy is not None:
                    _check_credentials(head)
            except BaseException as error:
                connection.close()
                if kept is not None and not connection.heard and isinstance(error, FetchError):
                    continue  # it had been idle for too long, as it seems
                raise
            return Answer(url, key, connection, head)

    def release(self, answer: Answer) -> None:
        """Nobody reads the answer any more. Its connection is kept for another request if all of the answer has come."""
        connection = answer.connection
        if not connection.usable:
            connection.close()
            return
        now = asyncio.get_running_loop().time()
        self._idle[connection] = answer.key, now + self._keep_alive_seconds
        self._idle_at.setdefault(answer.key, {})[connection] = None
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_at(now + self._keep_alive_seconds, self._close_old)

    def _kept(self, key: _Key) -> Connection | None:
        while kept := self._idle_at.get(key):
            connection = next(reversed(kept))  # the one used last is the one that is least likely to be closed soon
            self._forget_idle(connection)
            if connection.usable:
                return connection
            connection.close()
        return None

    def _forget_idle(self, connection: Connection) -> None:
        key, _ = self._idle.pop(connection)
        kept = self._idle_at[key]
        del kept[connection]
        if not kept:
            del self._idle_at[key]

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._forget_idle(connection)

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle:
            oldest, (_, until) = next(iter(self._idle.items()))
            if until > loop.time():
                self._sweep = loop.call_at(until + _SWEEP_SECONDS, self._close_old)
                return
            self._close_idle(oldest)

    def _close_idle(self, connection: Connection) -> None:
        self._forget_idle(connection)
        connection.close()

    async def _connect(self, url: URL, progress: Progress) -> Connection:
        if self._idle and len(self._open) + self._connecting >= self._connections:
            self._close_idle(next(iter(self._idle)))
        self._connecting += 1
        try:
            connection = await self._connected(url, progress)
        finally:
            self._connecting -= 1
        if not connection.lost:
            self._open.add(connection)
        return connection

    async def _connected(self, url: URL, progress: Progress) -> Connection:
        if self._proxy is None:
            return await self._to(url, progress)
        try:
            connection = await self._to(self._proxy, progress)
        except FetchError as error:
            raise ConfigError(f"the proxy cannot be reached: {error}") from error
        return connection if url.scheme == "http" else await self._through_proxy(connection, url, progress)

    async def _to(self, url: URL, progress: Progress) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            progress.enter(Failure.DNS_TIMEOUT)
            found = await self._resolver.resolve(url.raw_host or "", url.port or 0)
            progress.enter(Failure.CONNECT_TIMEOUT)
            sock = await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, interleave=1, socket_factory=self._rule.socket
            )
            factory = partial(Connection, self._scratch, sock, self._lost)
            _, connection = await loop.create_connection(factory, sock=sock)
        except OSError as error:
            raise of_connecting(error) from error
        return connection if url.scheme == "http" else await self._secured(connection, url, progress)

    async def _through_proxy(self, connection: Connection, url: URL, progress: Progress) -> Connection:
        """TLS to the URL's host, through a connection to the proxy."""
        target = _word(f"{url.host_subcomponent}:{url.port}")
        try:
            progress.asking(connection)
            head = await connection.ask(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self._proxy_field()}\r\n".encode())
            _check_proxy(head)
        except BaseException:
            connection.close()
            raise
        return await self._secured(connection, url, progress)

    async def _secured(self, connection: Connection, url: URL, progress: Progress) -> Connection:
        """TLS over a connection to the URL's host. That is a step of its own so that the connection can be closed at once: one
        that asyncio makes with TLS and that is given up in the moment in which the handshake ends, it keeps for 30 seconds."""
        progress.enter(Failure.TLS_TIMEOUT)
        try:
            return await connection.secured(self._tls_context(), _tls_name(url))
        except OSError as error:
            connection.close()
            raise of_connecting(error) from error
        except BaseException:
            connection.close()
            raise

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _key(self, url: URL) -> _Key:
        to = self._proxy if self._proxy is not None and url.scheme == "http" else url
        return to.scheme, to.raw_host or "", to.port or 0

    def _request(self, url: URL) -> bytes:
        host, target, more = _word(url.host_port_subcomponent or ""), _word(url.raw_path_qs), ""
        if self._proxy is not None and url.scheme == "http":
            target, more = f"http://{host}{target}", self._proxy_field()
        if url.user is not None:
            more += f"Authorization: {_basic(url)}\r\n"
        return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{self._fields}{more}\r\n".encode()

    def _proxy_field(self) -> str:
        if self._proxy is None or self._proxy.user is None:
            return ""
        return f"Proxy-Authorization: {_basic(self._proxy)}\r\n"


def _tls_name(url: URL) -> str:
    """Whose certificate is asked for. `ssl` cannot do without a name, nor with every name that HTTP can carry to a proxy."""
    host = (url.raw_host or "").rstrip(".")
    if not all(0 < len(label) < 64 for label in host.split(".")):
        raise FetchError(Failure.INVALID_URL, f"{host[:100]!r} is no name for a certificate")
    return host


def _check_credentials(head: Head) -> None:
    if head.status == 407:
        raise ConfigError("the proxy wants other credentials: 407")


def _check_proxy(head: Head) -> None:
    """Of an answer to CONNECT."""
    _check_credentials(head)
    if not 200 <= head.status < 300:
        raise FetchError(Failure.CONNECT_ERROR, f"the proxy says {head.status}")


def _basic(url: URL) -> str:
    """The credentials of a URL (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def _word(text: str) -> str:
    """A part of a request's first line, or its host. yarl quotes what would end it; this makes sure of it."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise FetchError(Failure.INVALID_URL, f"cannot be asked for: {text[:100]!r}")
    return text
