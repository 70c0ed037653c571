"""URLs as lists and Location headers have them, read as a browser reads them."""

import ipaddress
import re
import string
from urllib.parse import quote

from yarl import URL

from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

_NEVER_IN_HOSTS = re.compile(r"[\s\x00-\x1f\x7f%<>\"\\^`{|}]")
_UNREADABLE = (ValueError, IndexError)  # what yarl 1.25 raises; IndexError for "http://[::1]:@"


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


def redirect_target(base: URL, location: str) -> URL:
    """Where a Location header leads from `base`. Raises FetchError: see `parse_url`."""
    # Servers send raw bytes of any charset here, which the client keeps as surrogates: they are quoted as they are.
    ascii_location = quote(location.strip().encode("utf-8", "surrogateescape"), safe=string.punctuation)
    try:
        target = str(base.join(URL(ascii_location)))
    except _UNREADABLE as error:
        raise FetchError(Failure.INVALID_URL, f"redirect to {location[:100]!r}: {error}") from error
    return parse_url(target)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
