"""What img2dataset's messages tell of: they are exceptions as text, so that the codes are guesses, and coarse ones."""

import re

from pairsift.stages.fates import Failure

# The first that is found in the message.
_FETCH_MESSAGES = (
    (r"^hash mismatch$", Failure.HASH_MISMATCH),
    (r"^Use of image disallowed by X-Robots-Tag directive$", Failure.X_ROBOTS_TAG),
    (r"HTTP Error 30\d: The HTTP server returned a redirect error", Failure.TOO_MANY_REDIRECTS),
    (r"HTTP Error 403", Failure.HTTP_403),
    (r"HTTP Error 404", Failure.HTTP_404),
    (r"HTTP Error 410", Failure.HTTP_410),
    (r"HTTP Error 429", Failure.HTTP_429),
    (r"HTTP Error 4", Failure.HTTP_4XX),
    (r"HTTP Error 5", Failure.HTTP_5XX),
    (r"timed out", Failure.TIMEOUT),
    (r"CERTIFICATE_VERIFY_FAILED", Failure.CERTIFICATE_ERROR),
    (r"\[SSL", Failure.TLS_ERROR),
    (r"\[Errno -\d+\]|getaddrinfo|encoding with 'idna'", Failure.DNS_ERROR),
    (r"Connection reset|IncompleteRead|Remote end closed|Broken pipe", Failure.CONNECTION_LOST),
    (r"Connection refused|No route to host|Network is unreachable|urlopen error", Failure.CONNECT_ERROR),
    (r"URL can't contain|no host given|nonnumeric port|Invalid IPv6|codec can't encode", Failure.INVALID_URL),
)
_RESIZE_MESSAGES = (
    (r"^image too small$", Failure.TOO_SMALL),
    (r"^image area too large$", Failure.TOO_LARGE),
    (r"^aspect ratio too large$", Failure.ASPECT_RATIO),
    (r"imencode|grfmt_\w+\.cpp.*write", Failure.ENCODE_ERROR),
)


def fetch_failure(message: str) -> Failure:
    """The code for a row with the status failed_to_download."""
    return _first(message, _FETCH_MESSAGES, Failure.PROTOCOL_ERROR)


def resize_failure(message: str) -> Failure:
    """The code for a row with the status failed_to_resize."""
    return _first(message, _RESIZE_MESSAGES, Failure.DECODE_ERROR)


def _first(message: str, known: tuple[tuple[str, Failure], ...], otherwise: Failure) -> Failure:
    return next((failure for pattern, failure in known if re.search(pattern, message)), otherwise)
