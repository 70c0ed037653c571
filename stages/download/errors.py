"""Why there is no body: the exception that carries a fate's code, and what aiohttp's exceptions mean as codes."""

import errno
import socket
from collections.abc import Iterator

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong

from pairsift.stages.base import ConfigError
from pairsift.stages.download.addresses import PrivateAddressError
from pairsift.stages.fates import Failure

# The fates of an attempt whose deadline ran out, by what it was waiting for.
TIMEOUTS = (
    Failure.DNS_TIMEOUT,
    Failure.CONNECT_TIMEOUT,
    Failure.TLS_TIMEOUT,
    Failure.NO_ANSWER,
    Failure.SLOW_HEADERS,
    Failure.TIMEOUT,
)
_TOO_MANY_HEADERS = "Too many headers"  # how aiohttp 3.14 puts it; it has no exception of its own for that
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
        self.again = (failure.transient and failure not in TIMEOUTS) if again is None else again


def explain(error: aiohttp.ClientError | OSError) -> FetchError:
    """aiohttp's exceptions as failure codes, the most specific first.

    Raises:
        OSError: this machine has run out of file descriptors, or of memory for sockets.
        ConfigError: the proxy cannot be reached, or wants other credentials.
    """
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = one_line(cause)
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
    return FetchError(_failure_of(error), detail)


def _failure_of(error: aiohttp.ClientError | OSError) -> Failure:
    """The code of what went wrong on a connection, or while it was made."""
    causes = list(_chain(error))
    if any(isinstance(cause, ContentEncodingError) for cause in causes):
        return Failure.BAD_ENCODING
    # aiohttp 3.14 has ConnectionResetErrors of its own, without a number; and in mid-body it names the system's in words only.
    in_words = isinstance(error, aiohttp.ClientPayloadError) and ConnectionResetError.__name__ in str(error)
    if in_words or any(isinstance(cause, ConnectionResetError) and cause.errno for cause in causes):
        return Failure.CONNECTION_RESET
    known: tuple[tuple[type[Exception], Failure], ...] = (
        (aiohttp.ClientConnectorCertificateError, Failure.CERTIFICATE_ERROR),
        (aiohttp.ClientSSLError, Failure.TLS_ERROR),
        (aiohttp.ClientConnectorError, Failure.CONNECT_ERROR),
        (aiohttp.InvalidURL, Failure.INVALID_URL),
        (aiohttp.ClientPayloadError, Failure.INCOMPLETE_BODY),
        (aiohttp.ClientConnectionError, Failure.CONNECTION_LOST),
        (OSError, Failure.CONNECTION_LOST),
    )
    for kind, failure in known:
        if isinstance(error, kind):
            return failure
    return failure_of_parser(causes)


def failure_of_parser(causes: list[BaseException], otherwise: Failure = Failure.PROTOCOL_ERROR) -> Failure:
    """The code of what aiohttp's parser stumbled over."""
    if any(isinstance(cause, LineTooLong) for cause in causes):
        return Failure.HEADERS_TOO_LARGE
    if any(isinstance(cause, HttpProcessingError) and _TOO_MANY_HEADERS in cause.message for cause in causes):
        return Failure.HEADERS_TOO_LARGE
    return otherwise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came of."""
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__


def one_line(error: BaseException) -> str:
    """What an exception says, as the detail of a fate; never empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__
