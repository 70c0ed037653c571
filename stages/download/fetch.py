"""Fetch one URL: its body, or the reason why there is none.

Redirects are followed here, hop by hop, so that each hop's scheme and address are checked as the first one's are, and so
that whatever else has to be asked about a host before it is spoken to (`Fetcher.open_hop`) is asked about each.
"""

import asyncio
import errno
import re
import socket
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from pairsift.stages.download.addresses import PrivateAddressError, Resolver, public_socket
from pairsift.stages.fates import Failure

_REDIRECTS = (301, 302, 303, 307, 308)
_HTTP_FAILURES = {403: Failure.HTTP_403, 404: Failure.HTTP_404, 410: Failure.HTTP_410, 429: Failure.HTTP_429}
_NEVER_IN_HOSTS = re.compile(r"[\s%<>\"\\^`{|}]")
_CHUNK = 65536  # bytes
_DNS_SECONDS = 300  # how long a name's addresses are kept; a list of URLs asks for the same hosts again and again
_KEEP_ALIVE_SECONDS = 5  # idle connections cost a file descriptor each, and most hosts of a web-wide list come up once
# These say that this machine has run out of something: no row's fault, and no row's fate.
_OUR_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class FetchError(Exception):
    """There is no body: `failure` is the code of the row's fate, the message the detail for people.

    `again` says whether another attempt right away may do better. A deadline that ran out is worth another run, but not
    another `timeout` of this one; neither is a name that does not exist.
    """

    def __init__(self, failure: Failure, detail: str = "", again: bool | None = None) -> None:
        super().__init__(detail)
        self.failure = failure
        self.again = (failure.transient and failure is not Failure.TIMEOUT) if again is None else again


@dataclass(frozen=True)
class Limits:
    """What one attempt may take."""

    timeout: float  # seconds, from the first DNS query to the last byte, redirects included
    max_bytes: int  # of the body, after content decoding
    max_redirects: int


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
    except ValueError as error:
        raise FetchError(Failure.INVALID_URL, f"{text[:100]!r}: {error}") from error
    if url.scheme and url.scheme not in ("http", "https"):
        raise FetchError(Failure.UNSUPPORTED_SCHEME, f"scheme {url.scheme[:20]!r}")
    if not url.scheme or not url.raw_host or _NEVER_IN_HOSTS.search(url.raw_host):
        raise FetchError(Failure.INVALID_URL, f"{text[:100]!r} has no scheme or no valid host")
    return url


def open_session(user_agent: str, connections: int, allow_private_addresses: bool) -> aiohttp.ClientSession:
    """The session that one worker shares: keep-alive, DNS cache, no cookies, no proxies from the environment.

    To be called on the loop that will use it; close it there.
    """
    connector = aiohttp.TCPConnector(
        limit=connections,
        resolver=Resolver(allow_private_addresses),
        socket_factory=None if allow_private_addresses else public_socket,
        ttl_dns_cache=_DNS_SECONDS,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # one deadline rules them all: see Fetcher.fetch
        # Images are compressed already; an answer that is compressed all the same is decoded, and counted decoded.
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
    )


class Fetcher:
    """Fetches URLs over one session, each within the same limits."""

    def __init__(self, session: aiohttp.ClientSession, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def fetch(self, url: URL) -> bytes:
        """One attempt. The body is at least one byte. Raises FetchError; anything else is a program error."""
        try:
            return await asyncio.wait_for(self._follow(url), self._limits.timeout)
        except asyncio.TimeoutError as error:
            raise FetchError(Failure.TIMEOUT, f"no complete answer in {self._limits.timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error) from error

    async def _follow(self, url: URL) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            async with self.open_hop(url) as response:
                if response.status not in _REDIRECTS:
                    return await self._body(response)
                url = _redirect_target(response)
        raise FetchError(Failure.TOO_MANY_REDIRECTS, f"more than {self._limits.max_redirects}")

    @asynccontextmanager
    async def open_hop(self, url: URL) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask one host for one URL; the answer's headers are there, its body is not read yet."""
        async with self._session.get(url, allow_redirects=False) as response:
            yield response

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        _check_status(response.status)
        limit = self._limits.max_bytes
        if response.content_length is not None and response.content_length > limit:
            raise FetchError(Failure.TOO_MANY_BYTES, f"Content-Length {response.content_length}, max_bytes is {limit}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > limit:
                raise FetchError(Failure.TOO_MANY_BYTES, f"max_bytes is {limit}")
        if not body:
            raise FetchError(Failure.EMPTY_BODY, f"status {response.status}")
        return bytes(body)


def _redirect_target(response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if location is None:
        raise FetchError(Failure.PROTOCOL_ERROR, f"{response.status} without Location")
    # Servers send raw bytes of any charset here, which aiohttp keeps as surrogates: they are quoted as they are.
    ascii_location = quote(location.strip().encode("utf-8", "surrogateescape"), safe=string.punctuation)
    try:
        target = response.url.join(URL(ascii_location))
    except ValueError as error:
        raise FetchError(Failure.INVALID_URL, f"redirect to {location[:100]!r}: {error}") from error
    return parse_url(str(target))


def _check_status(status: int) -> None:
    if 200 <= status < 300:
        return
    if 400 <= status < 500:
        raise FetchError(_HTTP_FAILURES.get(status, Failure.HTTP_4XX), str(status))
    if 500 <= status < 600:
        raise FetchError(Failure.HTTP_5XX, str(status))
    raise FetchError(Failure.PROTOCOL_ERROR, f"status {status}")


def _explain(error: aiohttp.ClientError | OSError) -> FetchError:
    """aiohttp's exceptions as failure codes, the most specific first."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = " ".join(str(cause).split())[:200] or type(error).__name__
    if getattr(cause, "errno", None) in _OUR_FAULT and not isinstance(cause, socket.gaierror):
        raise OSError(f"{detail}: raise the limit (ulimit -n), or lower the download's connections") from error
    if isinstance(cause, PrivateAddressError):
        return FetchError(Failure.PRIVATE_ADDRESS, detail)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError(Failure.DNS_ERROR, detail, again=getattr(cause, "errno", None) not in _NO_SUCH_NAME)
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
