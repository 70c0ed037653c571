"""Fetch one URL: its body, or the reason why there is none.

Redirects are followed here, hop by hop, so that each hop's scheme and address are checked as the first one's are, and so
that whatever else has to be asked about a host before it is spoken to (`Fetcher.open_hop`) is asked about each.
"""

import asyncio
import errno
import ipaddress
import re
import socket
import string
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from pairsift.stages.base import ConfigError
from pairsift.stages.download.addresses import AddressRule, PrivateAddressError, Resolver
from pairsift.stages.fates import Failure

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)
_HTTP_FAILURES = {403: Failure.HTTP_403, 404: Failure.HTTP_404, 410: Failure.HTTP_410, 429: Failure.HTTP_429}
_NEVER_IN_HOSTS = re.compile(r"[\s\x00-\x1f\x7f%<>\"\\^`{|}]")
_UNREADABLE = (ValueError, IndexError)  # what yarl 1.25 raises; IndexError for "http://[::1]:@"
_CHUNK = 65536  # bytes
_CODINGS = ("", "identity", "gzip", "deflate")  # others depend on what else is installed, and nobody asked for any
_MAX_HEADER_BYTES = 16384  # of one header field, and of the status line; aiohttp takes 128 fields
_DNS_SECONDS = 300  # how long a name's addresses are kept; a list of URLs asks for the same hosts again and again
_KEEP_ALIVE_SECONDS = 5  # idle connections cost a file descriptor each, and most hosts of a web-wide list come up once
# These say that this machine has run out of something: no row's fault, and no row's fate.
_OUR_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class FetchError(Exception):
    """There is no body: `failure` is the code of the row's fate, the message the detail for people.

    `again` says whether another attempt right away may do better. A deadline that ran out is worth another run, but not
    another `timeout` of this one; neither is a name that does not exist. `status` is the answer's, where there was one, and
    `retry_after` the seconds for which it asks to be left alone.
    """

    def __init__(
        self,
        failure: Failure,
        detail: str = "",
        again: bool | None = None,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.failure = failure
        self.status = status
        self.retry_after = retry_after
        self.again = (failure.transient and failure is not Failure.TIMEOUT) if again is None else again


@dataclass(frozen=True)
class Limits:
    """What one attempt may take."""

    timeout: float  # seconds, from the first DNS query to the last byte, redirects included
    max_bytes: int  # of the body, after content decoding
    max_redirects: int
    min_rate: float = 0  # bytes of body per second, on average since its headers came; 0: any
    rate_grace: float = 3.0  # seconds that a body may take to get going, before its rate is looked at


def parse_url(text: str | None) -> URL:
    """A URL from a list, quoted as a browser would quote it: spaces, non-ASCII paths and international host names are fine.

    Raises:
        FetchError: INVALID_URL for null, blank or unparsable text or where there is no host; UNSUPPORTED_SCHEME for
            anything but http and https.
    """
    if text is None or not text.strip():
        raise FetchError(Failure.INVALID_URL, "no URL")
    try:
        url = URL(text.strip())
        host = url.raw_host or ""
        # yarl looks at some parts only when they are asked for, and lets some through that it cannot read again.
        readable = url.scheme not in ("http", "https") or URL(str(url)).raw_host == host
    except _UNREADABLE as error:
        raise FetchError(Failure.INVALID_URL, f"{text[:100]!r}: {error}") from error
    if url.scheme and url.scheme not in ("http", "https"):
        raise FetchError(Failure.UNSUPPORTED_SCHEME, f"scheme {url.scheme[:20]!r}")
    if not (url.scheme and host and readable) or _NEVER_IN_HOSTS.search(host) or (":" in host and not _is_ipv6(host)):
        raise FetchError(Failure.INVALID_URL, f"{text[:100]!r} has no scheme or no valid host")
    return url


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


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
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        # Images are compressed already; an answer that is compressed all the same is decoded, and counted decoded.
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
    )


class _Connector(aiohttp.TCPConnector):
    """A connection on which a server has said something unasked is not used again: aiohttp would take it for the answer to
    whatever is asked next, and one row's answer must not become another's."""

    async def _get(self, *args: Any, **kwargs: Any) -> Any:
        while (connection := await super()._get(*args, **kwargs)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class Visit:
    """What one row asks of the hosts that it comes to. This one asks nothing: see `manners`."""

    received = 0  # bytes of bodies

    async def enter(self, url: URL) -> None:
        """Wait until the URL may be asked for. Raises FetchError where it may not."""

    def leave(self, error: FetchError | None = None) -> None:
        """The hop that `enter` let through is over."""

    def check_headers(self, headers: CIMultiDictProxy[str]) -> None:
        """Look at an answer's headers before its body is read. Raises FetchError where the body is not to be had."""


class Fetcher:
    """Fetches URLs over one session, each within the same limits."""

    def __init__(self, session: aiohttp.ClientSession, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def fetch(self, url: URL, visit: Visit | None = None) -> bytes:
        """One attempt. The body is at least one byte. Raises FetchError; anything else is a program error.

        `visit` is asked before each hop and told what came of it; the time that it makes us wait is not the attempt's.
        """
        visit = visit or Visit()
        clock = asyncio.get_running_loop().time
        seconds = self._limits.timeout
        for _ in range(self._limits.max_redirects + 1):
            await visit.enter(url)
            began = clock()
            try:
                answer = await self._within(seconds, self._hop(url, visit))
            except FetchError as error:
                visit.leave(error)
                raise
            visit.leave()
            if isinstance(answer, bytes):
                return answer
            url, seconds = answer, seconds - (clock() - began)
        raise FetchError(Failure.TOO_MANY_REDIRECTS, f"more than {self._limits.max_redirects}")

    async def _within(self, seconds: float, answer: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wait_for(answer, seconds)
        except asyncio.TimeoutError as error:
            raise FetchError(Failure.TIMEOUT, f"no complete answer in {self._limits.timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error) from error

    async def _hop(self, url: URL, visit: Visit) -> bytes | URL:
        """The body, or where it is to be had instead."""
        async with self.open_hop(url) as response:
            if response.status in _REDIRECTS:
                return _redirect_target(response)
            return await self._body(response, visit)

    async def beginning(self, url: URL, max_bytes: int) -> tuple[int, bytes]:
        """Status and at most the first `max_bytes` of an answer, whatever its status, within the limits of an attempt.

        At most `max_redirects` redirects are followed; what the last answer says is returned then. Raises FetchError.
        """
        return await self._within(self._limits.timeout, self._beginning(url, max_bytes))

    async def _beginning(self, url: URL, max_bytes: int) -> tuple[int, bytes]:
        body = bytearray()
        for left in reversed(range(self._limits.max_redirects + 1)):
            async with self.open_hop(url) as response:
                if response.status in _REDIRECTS and left:
                    url = _redirect_target(response)
                    continue
                if 200 <= response.status < 300:
                    _check_coding(response.headers.getall("Content-Encoding", ()))
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        body += chunk
                        if len(body) >= max_bytes:
                            break
                break
        return response.status, bytes(body[:max_bytes])

    @asynccontextmanager
    async def open_hop(self, url: URL) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask one host for one URL; the answer's headers are there, its body is not read yet."""
        async with self._session.get(url, allow_redirects=False) as response:
            yield response

    async def _body(self, response: aiohttp.ClientResponse, visit: Visit) -> bytes:
        _check_status(response)
        visit.check_headers(response.headers)
        _check_coding(response.headers.getall("Content-Encoding", ()))
        limit = self._limits.max_bytes
        if response.content_length is not None and response.content_length > limit:
            raise FetchError(Failure.TOO_MANY_BYTES, f"Content-Length {response.content_length}, max_bytes is {limit}")
        body = bytearray()
        try:
            with _RateWatch(response.content, body, self._limits), _woken_by_nonsense(response):
                async for chunk in response.content.iter_chunked(_CHUNK):
                    body += chunk
                    if len(body) > limit:
                        raise FetchError(Failure.TOO_MANY_BYTES, f"max_bytes is {limit}")
        finally:
            visit.received += len(body)
        if not body:
            raise FetchError(Failure.EMPTY_BODY, f"status {response.status}")
        return bytes(body)


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
            content.set_exception(FetchError(Failure.PROTOCOL_ERROR, " ".join(str(error).split())[:200]))

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
    """While `body` grows from `content`: TOO_SLOW is raised to the reader once it has had less than `min_rate` bytes per
    second on average, after the grace. It costs one timer per body, which mostly never fires."""

    def __init__(self, content: aiohttp.StreamReader, body: bytearray, limits: Limits) -> None:
        self._content, self._body, self._limits = content, body, limits

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer = self._loop.call_at(self._began + self._limits.rate_grace, self._look)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        min_rate = self._limits.min_rate
        seconds = self._loop.time() - self._began
        if len(self._body) < min_rate * seconds:
            detail = f"{len(self._body)} bytes of body in {seconds:.1f} s, min_rate is {min_rate:g} bytes/s"
            self._content.set_exception(FetchError(Failure.TOO_SLOW, detail, again=False))
        elif min_rate:
            enough_for = len(self._body) / min_rate  # seconds; at least a few milliseconds from now, not to spin
            self._timer = self._loop.call_at(self._began + max(enough_for, seconds + 0.01), self._look)


def _redirect_target(response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if location is None:
        raise FetchError(Failure.PROTOCOL_ERROR, f"{response.status} without Location")
    return redirect_target(response.url, location)


def redirect_target(base: URL, location: str) -> URL:
    """Where a Location header leads from `base`. Raises FetchError: see `parse_url`."""
    # Servers send raw bytes of any charset here, which aiohttp keeps as surrogates: they are quoted as they are.
    ascii_location = quote(location.strip().encode("utf-8", "surrogateescape"), safe=string.punctuation)
    try:
        target = str(base.join(URL(ascii_location)))
    except _UNREADABLE as error:
        raise FetchError(Failure.INVALID_URL, f"redirect to {location[:100]!r}: {error}") from error
    return parse_url(target)


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    if 400 <= status < 500:
        failure = _HTTP_FAILURES.get(status, Failure.HTTP_4XX)
    elif 500 <= status < 600:
        failure = Failure.HTTP_5XX
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


def _check_coding(values: Sequence[str]) -> None:
    """Nested codings multiply what one can blow up, and are never seen on images: one at most."""
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    if len(codings) > 1 or any(coding not in _CODINGS for coding in codings):
        raise FetchError(Failure.PROTOCOL_ERROR, f"Content-Encoding {', '.join(codings)[:100]!r}, though none was asked for")


def _explain(error: aiohttp.ClientError | OSError) -> FetchError:
    """aiohttp's exceptions as failure codes, the most specific first."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = " ".join(str(cause).split())[:200] or type(error).__name__
    if getattr(cause, "errno", None) in _OUR_FAULT and not isinstance(cause, socket.gaierror):
        raise OSError(f"{detail}: raise the limit (ulimit -n), or lower the download's connections") from error
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        raise ConfigError(f"the proxy cannot be reached: {detail}") from error
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            raise ConfigError(f"the proxy wants other credentials: {detail}") from error
        return FetchError(Failure.CONNECT_ERROR, f"the proxy says {error.status}")
    if isinstance(cause, PrivateAddressError):
        return FetchError(Failure.PRIVATE_ADDRESS, detail)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError(Failure.DNS_ERROR, detail, again=getattr(cause, "errno", None) not in _NO_SUCH_NAME)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return FetchError(Failure.CERTIFICATE_ERROR, detail)
    if isinstance(error, aiohttp.ClientSSLError):
        return FetchError(Failure.TLS_ERROR, detail)
    if isinstance(error, aiohttp.ClientConnectorError):
        return FetchError(Failure.CONNECT_ERROR, detail)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError(Failure.INVALID_URL, detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        broken_coding = isinstance(error.__cause__, ContentEncodingError)
        return FetchError(Failure.PROTOCOL_ERROR if broken_coding else Failure.CONNECTION_LOST, detail)
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return FetchError(Failure.CONNECTION_LOST, detail)
    return FetchError(Failure.PROTOCOL_ERROR, detail)
