"""What can become of a row: a closed set of statuses, and a closed set of failure codes.

Codes are stable and machine-readable; whatever else is known goes into the `error_message` beside them.
The first three statuses are img2dataset's own words, so that its users' scripts go on working.
"""

from enum import Enum
from typing import NamedTuple


class Status(str, Enum):
    """The fate of one input row, as `fates.parquet` and the shards' Parquet spell it."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"
    FAILED_TO_READ = "failed_to_read"
    FAILED_TO_COMPUTE = "failed_to_compute"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    REMOVED = "removed"


class _Meaning(NamedTuple):
    status: Status
    transient: bool
    text: str


class Failure(str, Enum):
    """Why a row has no result. `status` groups the codes; `transient` ones are worth asking again later."""

    # reading the input
    UNREADABLE_ROW = "unreadable_row"
    INVALID_TEXT = "invalid_text"
    MISSING_IMAGE = "missing_image"
    # fetching
    INVALID_URL = "invalid_url"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    PRIVATE_ADDRESS = "private_address"
    DNS_ERROR = "dns_error"
    DNS_TIMEOUT = "dns_timeout"
    CONNECT_ERROR = "connect_error"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    TLS_TIMEOUT = "tls_timeout"
    CERTIFICATE_ERROR = "certificate_error"
    NO_ANSWER = "no_answer"
    SLOW_HEADERS = "slow_headers"
    TIMEOUT = "timeout"
    TOO_SLOW = "too_slow"
    CONNECTION_LOST = "connection_lost"
    CONNECTION_RESET = "connection_reset"
    INCOMPLETE_BODY = "incomplete_body"
    PROTOCOL_ERROR = "protocol_error"
    HEADERS_TOO_LARGE = "headers_too_large"
    BAD_CHUNKS = "bad_chunks"
    BAD_ENCODING = "bad_encoding"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_410 = "http_410"
    HTTP_4XX = "http_4xx"
    HTTP_429 = "http_429"
    HTTP_503 = "http_503"
    HTTP_5XX = "http_5xx"
    TOO_MANY_BYTES = "too_many_bytes"
    COMPRESSION_BOMB = "compression_bomb"
    EMPTY_BODY = "empty_body"
    HASH_MISMATCH = "hash_mismatch"
    # manners and consent
    NO_CONTACT = "no_contact"
    ROBOTS_DISALLOWED = "robots_disallowed"
    X_ROBOTS_TAG = "x_robots_tag"
    TDM_RESERVATION = "tdm_reservation"
    CONTENT_USAGE = "content_usage"
    BLOCKED_DOMAIN = "blocked_domain"
    BLOCKED_URL = "blocked_url"
    BLOCKED_CONTENT = "blocked_content"
    THROTTLED = "throttled"
    # given up since
    IMAGE_FREED = "image_freed"
    # decoding, resizing, encoding
    HTML_PAGE = "html_page"
    SVG = "svg"
    PDF = "pdf"
    VIDEO = "video"
    ARCHIVE = "archive"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED_IMAGE = "truncated_image"
    DECODE_ERROR = "decode_error"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COSTLY = "too_costly"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    ASPECT_RATIO = "aspect_ratio"
    INVALID_BOXES = "invalid_boxes"
    ENCODE_ERROR = "encode_error"
    # computing
    IMAGE_UNREADABLE = "image_unreadable"
    NOT_FINITE = "not_finite"
    PROCESS_DIED = "process_died"
    DEVICE_LOST = "device_lost"
    # asked for
    REMOVED = "removed"

    @property
    def status(self) -> Status:
        return _MEANINGS[self].status

    @property
    def transient(self) -> bool:
        return _MEANINGS[self].transient

    @property
    def text(self) -> str:
        """One line for people."""
        return _MEANINGS[self].text


_READ, _GET, _RESIZE, _COMPUTE = (
    Status.FAILED_TO_READ,
    Status.FAILED_TO_DOWNLOAD,
    Status.FAILED_TO_RESIZE,
    Status.FAILED_TO_COMPUTE,
)

_MEANINGS: dict[Failure, _Meaning] = {
    Failure.UNREADABLE_ROW: _Meaning(_READ, False, "the row could not be parsed"),
    Failure.INVALID_TEXT: _Meaning(_READ, False, "the row holds bytes that are not UTF-8"),
    Failure.MISSING_IMAGE: _Meaning(_READ, False, "the sample has no image"),
    Failure.INVALID_URL: _Meaning(_GET, False, "no URL, or not a valid one"),
    Failure.UNSUPPORTED_SCHEME: _Meaning(_GET, False, "only http and https are fetched"),
    Failure.PRIVATE_ADDRESS: _Meaning(_GET, False, "the host is a private or loopback address"),
    Failure.DNS_ERROR: _Meaning(_GET, True, "the host's name did not resolve"),
    Failure.DNS_TIMEOUT: _Meaning(_GET, True, "no answer of the name servers before the deadline"),
    Failure.CONNECT_ERROR: _Meaning(_GET, True, "no connection to the host"),
    Failure.CONNECT_TIMEOUT: _Meaning(_GET, True, "no connection to the host before the deadline"),
    Failure.TLS_ERROR: _Meaning(_GET, False, "the TLS handshake failed"),
    Failure.TLS_TIMEOUT: _Meaning(_GET, True, "the TLS handshake did not end before the deadline"),
    Failure.CERTIFICATE_ERROR: _Meaning(_GET, False, "the TLS certificate is not valid for the host"),
    Failure.NO_ANSWER: _Meaning(_GET, True, "not one byte of an answer before the deadline"),
    Failure.SLOW_HEADERS: _Meaning(_GET, True, "the answer's headers did not end before the deadline"),
    Failure.TIMEOUT: _Meaning(_GET, True, "the answer was not complete before the deadline"),
    Failure.TOO_SLOW: _Meaning(_GET, True, "the body came more slowly than min_rate"),
    Failure.CONNECTION_LOST: _Meaning(_GET, True, "the connection was closed before an answer came"),
    Failure.CONNECTION_RESET: _Meaning(_GET, True, "the connection was reset"),
    Failure.INCOMPLETE_BODY: _Meaning(_GET, True, "the connection was closed before the body was complete"),
    Failure.PROTOCOL_ERROR: _Meaning(_GET, False, "the answer is not valid HTTP"),
    Failure.HEADERS_TOO_LARGE: _Meaning(_GET, False, "the answer has too many headers, or too long ones"),
    Failure.BAD_CHUNKS: _Meaning(_GET, False, "the chunks of the body make no sense"),
    Failure.BAD_ENCODING: _Meaning(_GET, False, "the body's content encoding was not asked for, or cannot be undone"),
    Failure.TOO_MANY_REDIRECTS: _Meaning(_GET, False, "too many redirects"),
    Failure.HTTP_403: _Meaning(_GET, False, "403 Forbidden"),
    Failure.HTTP_404: _Meaning(_GET, False, "404 Not Found"),
    Failure.HTTP_410: _Meaning(_GET, False, "410 Gone"),
    Failure.HTTP_4XX: _Meaning(_GET, False, "another 4xx answer"),
    Failure.HTTP_429: _Meaning(_GET, True, "429 Too Many Requests"),
    Failure.HTTP_503: _Meaning(_GET, True, "503 Service Unavailable"),
    Failure.HTTP_5XX: _Meaning(_GET, True, "another 5xx answer"),
    Failure.TOO_MANY_BYTES: _Meaning(_GET, False, "the body is larger than allowed"),
    Failure.COMPRESSION_BOMB: _Meaning(_GET, False, "the body is larger than allowed once its content encoding is undone"),
    Failure.EMPTY_BODY: _Meaning(_GET, False, "the body is empty"),
    Failure.HASH_MISMATCH: _Meaning(_GET, False, "the body is not the one that verify_hash expects"),
    Failure.NO_CONTACT: _Meaning(_GET, False, "no contact is configured, and the host is not loopback"),
    Failure.ROBOTS_DISALLOWED: _Meaning(_GET, False, "robots.txt does not allow it"),
    Failure.X_ROBOTS_TAG: _Meaning(_GET, False, "the answer's X-Robots-Tag forbids this use"),
    Failure.TDM_RESERVATION: _Meaning(_GET, False, "the answer reserves text and data mining (TDMRep)"),
    Failure.CONTENT_USAGE: _Meaning(_GET, False, "Content-Usage refuses training (AIPREF)"),
    Failure.BLOCKED_DOMAIN: _Meaning(_GET, False, "the domain is on a block list"),
    Failure.BLOCKED_URL: _Meaning(_GET, False, "the URL is on a block list"),
    Failure.BLOCKED_CONTENT: _Meaning(_GET, False, "the body is on a block list"),
    Failure.THROTTLED: _Meaning(_GET, True, "the host asks for more time than the row's patience"),
    Failure.IMAGE_FREED: _Meaning(_GET, True, "pairsift clean --rejects gave the image up, when another rule rejected the row"),
    Failure.HTML_PAGE: _Meaning(_RESIZE, False, "the body is a page of HTML"),
    Failure.SVG: _Meaning(_RESIZE, False, "the body is an SVG drawing"),
    Failure.PDF: _Meaning(_RESIZE, False, "the body is a PDF document"),
    Failure.VIDEO: _Meaning(_RESIZE, False, "the body is a film or a sound"),
    Failure.ARCHIVE: _Meaning(_RESIZE, False, "the body is an archive or a compressed file"),
    Failure.NOT_AN_IMAGE: _Meaning(_RESIZE, False, "the body is not an image of a known format"),
    Failure.TRUNCATED_IMAGE: _Meaning(_RESIZE, False, "the image is cut short"),
    Failure.DECODE_ERROR: _Meaning(_RESIZE, False, "the image is damaged"),
    Failure.TOO_MANY_PIXELS: _Meaning(_RESIZE, False, "the image has more pixels than max_pixels"),
    Failure.TOO_COSTLY: _Meaning(_RESIZE, False, "the image is made to cost its decoder time or memory"),
    Failure.TOO_SMALL: _Meaning(_RESIZE, False, "the image is smaller than min_image_size"),
    Failure.TOO_LARGE: _Meaning(_RESIZE, False, "the image has more pixels than max_image_area"),
    Failure.ASPECT_RATIO: _Meaning(_RESIZE, False, "the image is longer than max_aspect_ratio allows"),
    Failure.INVALID_BOXES: _Meaning(_RESIZE, False, "the boxes to blur are not boxes"),
    Failure.ENCODE_ERROR: _Meaning(_RESIZE, False, "the image could not be encoded"),
    Failure.IMAGE_UNREADABLE: _Meaning(_COMPUTE, False, "a model could not read the stored image"),
    Failure.NOT_FINITE: _Meaning(_COMPUTE, False, "a model gave a value that is not a finite number"),
    Failure.PROCESS_DIED: _Meaning(_COMPUTE, False, "the row killed the process that worked on it"),
    Failure.DEVICE_LOST: _Meaning(_COMPUTE, True, "a GPU was lost with it, again and again"),
    Failure.REMOVED: _Meaning(Status.REMOVED, False, "removed on request, with pairsift remove"),
}

TRANSIENT = frozenset(failure.value for failure in Failure if failure.transient)
