"""Why there is no body: the exception that carries a fate's code, and what the system's errors mean as codes."""

import errno
import socket
import ssl

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


def of_connecting(error: OSError) -> FetchError:
    """Why there is no connection, from looking up the name to the end of TLS's handshake.

    Raises:
        OSError: this machine has run out of file descriptors, or of memory for sockets.
    """
    detail = one_line(error)
    if isinstance(error, socket.gaierror):
        return FetchError(Failure.DNS_ERROR, detail, again=error.errno not in _NO_SUCH_NAME)
    if error.errno in _OUR_FAULT and not isinstance(error, ssl.SSLError):
        raise OSError(f"{detail}: raise the limit (ulimit -n), or lower the download's connections") from error
    return FetchError(_failure_of(error), detail)


def _failure_of(error: OSError) -> Failure:
    known: tuple[tuple[type[OSError], Failure], ...] = (
        (PrivateAddressError, Failure.PRIVATE_ADDRESS),
        (ssl.SSLCertVerificationError, Failure.CERTIFICATE_ERROR),
        (ssl.SSLError, Failure.TLS_ERROR),
        (ConnectionResetError, Failure.CONNECTION_RESET),
    )
    return next((failure for kind, failure in known if isinstance(error, kind)), Failure.CONNECT_ERROR)


def one_line(error: BaseException) -> str:
    """What an exception says, as the detail of a fate; never empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__
