"""Properties that hold for whatever strangers send: URLs, headers, robots.txt, bodies, and answers as they are on the wire.

`PAIRSIFT_EXAMPLES=20000 python -m pytest tests/fuzz/test_properties.py` looks for longer than the suite does.
"""

import asyncio
import math
import os
import string
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

sys.path.insert(0, str(Path(__file__).parents[1] / "stages" / "download"))

from hostile import images

from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import Limits, retry_after
from pairsift.stages.download.client import Client
from pairsift.stages.download.coding import coding_of
from pairsift.stages.download.connection import Head
from pairsift.stages.download.consent import forbidding, training_refused, usage
from pairsift.stages.download.errors import TIMEOUTS, FetchError
from pairsift.stages.download.exif import exif_json
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.robots import MAX_CRAWL_DELAY, parsed
from pairsift.stages.download.urls import parse_url, redirect_target
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.not_images import what_else
from pairsift.stages.pixels.options import ImageOptions

EXAMPLES = int(os.environ.get("PAIRSIFT_EXAMPLES", "150"))
# The first examples meet imports and caches; what hangs is caught all the same.
property_of = settings(max_examples=EXAMPLES, deadline=timedelta(seconds=2), derandomize=EXAMPLES <= 1000, database=None)
slower = settings(property_of, max_examples=max(20, EXAMPLES // 3))

HEADER = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=200)
KEYS = st.sampled_from(["train-ai", "train-genai", "ai", "genai", "tdm", "all", "bots", "search", "x", "*"])


def told(error: FetchError | ImageError, *failures: Failure) -> None:
    """The error is one of these failures, and says something."""
    assert str(error), error.failure
    assert error.failure in failures, error.failure


UNFETCHED = tuple(failure for failure in Failure if failure.status.value == "failed_to_download")
UNUSABLE = tuple(failure for failure in Failure if failure.status.value == "failed_to_resize")


# URLs

PARTS = ["http://", "https://", "//", "/", "@", ":", "[", "]", "::1"]
PARTS += ["%", "%00", "?", "#", "..", "xn--", "a.example", "127.0.0.1"]
URLS = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=8).map("".join) | st.text(max_size=60)


@property_of
@given(URLS)
def test_what_is_let_through_is_a_url_and_stays_the_same(text: str) -> None:
    try:
        url = parse_url(text)
    except FetchError as error:
        told(error, Failure.INVALID_URL, Failure.UNSUPPORTED_SCHEME)
        return
    assert url.scheme in ("http", "https")
    again = parse_url(str(url))
    assert again.raw_host == url.raw_host
    assert again.port == url.port


@property_of
@given(URLS)
def test_redirects_lead_to_urls_or_nowhere(location: str) -> None:
    location = location.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")  # as the client hands it over
    try:
        url = redirect_target(URL("http://example.com/a/b?c"), location)
    except FetchError as error:
        told(error, Failure.INVALID_URL, Failure.UNSUPPORTED_SCHEME)
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host


# Headers


@property_of
@given(HEADER | st.from_regex(r"[0-9A-Za-z ,:+\-]{0,40}", fullmatch=True))
def test_retry_after_is_a_time_or_nothing(value: str) -> None:
    seconds = retry_after(value)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@property_of
@given(st.integers(0, 10**9 - 1), st.sampled_from(["", " ", "\t"]))
def test_retry_after_in_seconds_is_that(seconds: int, blank: str) -> None:
    assert retry_after(f"{blank}{seconds}{blank}") == seconds


@property_of
@given(HEADER)
def test_content_usage_is_a_dictionary_or_says_nothing(value: str) -> None:
    assert set(usage(value).values()) <= {"y", "n"}
    if not value.strip():
        assert not training_refused(value)


@property_of
@given(
    st.lists(st.tuples(KEYS, st.sampled_from("yn"), st.sampled_from(["", ";a", ';a="b, c"', ";q=1.5"])), min_size=1), st.data()
)
def test_content_usage_is_read_as_it_was_meant(members: list[tuple[str, str, str]], data: st.DataObject) -> None:
    blanks = st.sampled_from(["", " ", "\t", "  "])
    separators = [data.draw(blanks) + "," + data.draw(blanks) for _ in members[1:]]
    text = "".join(f"{key}={token}{rest}{after}" for (key, token, rest), after in zip(members, [*separators, ""], strict=True))
    assert usage(text) == {key: token for key, token, _ in members}
    if any(key == "train-ai" for key, _, _ in members):
        last = [token for key, token, _ in members if key == "train-ai"][-1]
        assert training_refused(text) or last == "y"


@property_of
@given(st.lists(HEADER, max_size=4), st.lists(st.sampled_from(["noai", "noindex", "all", "otherbot: noai"]), max_size=3))
def test_a_directive_for_everybody_is_found_wherever_it_stands(before: list[str], more: list[str]) -> None:
    agents, directives = frozenset({"pairsift"}), frozenset({"noai", "noindex"})
    found = forbidding([*before, ", ".join(more)], agents, directives)
    assert found is None or found in directives
    assert forbidding([*before, "noai"], agents, directives) is not None
    assert forbidding([*before, "PairSift: NoAI"], agents, directives) is not None


@property_of
@given(st.lists(HEADER | st.sampled_from(["gzip", "deflate", "identity", "", "br", "gzip, gzip"]), max_size=3))
def test_one_coding_at_most(values: list[str]) -> None:
    try:
        coding = coding_of(Head(200, CIMultiDictProxy(CIMultiDict(("Content-Encoding", value) for value in values)), None))
    except FetchError as error:
        told(error, Failure.BAD_ENCODING)
        return
    words = [word.strip().lower() for value in values for word in value.split(",")]
    assert [coding] == ([word for word in words if word in ("gzip", "deflate")] or [None])


# robots.txt

NAMES = st.sampled_from(["pairsift", "*", "other", "PairSift/1.0", ""])
RULES = ["Disallow: /", "Allow: /a*$", "Disallow:", "Crawl-delay: 1e9"]
RULES += ["Crawl-delay: -1", "Content-Usage: train-ai=n", "Sitemap: x"]
LINES = st.one_of(NAMES.map(lambda name: f"User-agent: {name}"), st.sampled_from(RULES), st.text(max_size=30))


@property_of
@given(st.lists(LINES, max_size=30).map("\n".join), URLS)
def test_any_robots_txt_can_be_asked(text: str, path: str) -> None:
    rules = parsed(text, "our-corpus pairsift", content_usage=True)
    assert 0 <= rules.crawl_delay <= MAX_CRAWL_DELAY
    try:
        url = redirect_target(URL("http://example.com/a"), "/" + path.encode("utf-8", "replace").decode())
        rules.check(url, "our-corpus pairsift")
    except FetchError as error:
        told(error, Failure.ROBOTS_DISALLOWED, Failure.CONTENT_USAGE, Failure.INVALID_URL)


# Bodies

MAGIC = [b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 ", b"GIF89a", b"BM", b"II*\0", b"\0\0\0\x1cftypavif"]
MAGIC += [b"\xff\xd8\xff", b"<svg", b""]
BODIES = st.tuples(st.sampled_from(MAGIC), st.binary(max_size=300)).map(b"".join)
OPTIONS = ImageOptions(max_pixels=1_000_000, image_size=32)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A whole picture of some format with a few pieces replaced."""
    data = images.picture(
        draw(st.sampled_from(["jpeg", "png", "png_palette", "webp", "gif", "bmp", "tiff", "avif", "jpeg_cmyk"]))
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=8)) + data[at + draw(st.integers(0, 20)) :]
    return data


@slower
@given(BODIES | damaged())
def test_any_body_is_an_image_or_told_what_it_is(data: bytes) -> None:
    assert what_else(data) in UNUSABLE
    exif_json(data)
    try:
        image = prepare(data, OPTIONS)
    except ImageError as error:
        told(error, *UNUSABLE)
        return
    assert (image.width, image.height) == (32, 32)


@property_of
@given(st.sampled_from(["", "\ufeff", "\r\n\t "]), st.sampled_from(["html", "HTML lang=en", "head"]), st.text(string.printable))
def test_pages_are_told_by_their_first_bytes(before: str, tag: str, text: str) -> None:
    assert what_else(f"{before}<{tag}>{text}".encode()) in (Failure.HTML_PAGE, Failure.PDF)  # PDF: "%PDF-" may come later


# Answers


class Sender:
    """Sends whatever `data` is to whoever connects, and hangs up."""

    data = b""
    port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.data)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    sender, loop = Sender(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(sender.answer, "127.0.0.1", 0))
    sender.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield sender
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


STATUS = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 302 Found", b"HTTP/1.1 103 Early", b"HTTP/1.1 503 x"])
FIELDS = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked",
        b"Content-Encoding: gzip",
        b"Connection: close",
    ]
    + [b"Location: /a", b"Location: http://[", b"Retry-After: x", b"X-Robots-Tag: noai", b"Set-Cookie: a=b", b": x", b"\0: a"]
)
ANSWERS = st.tuples(
    STATUS | st.binary(max_size=20),
    st.lists(FIELDS | st.binary(max_size=20), max_size=5).map(lambda fields: b"".join(b"\r\n" + field for field in fields)),
    st.sampled_from([b"\r\n\r\n", b"\n\n", b""]),
    st.binary(max_size=40) | st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"ffffffffff\r\n", b"zz\r\n"]),
).map(b"".join)


@slower
@given(data=ANSWERS)
def test_any_answer_is_a_body_or_a_fate(sender: Sender, data: bytes) -> None:
    async def fetch() -> bytes:
        async with Client("test", 1, AddressRule(["127.0.0.1"])) as client:
            fetcher = Fetcher(client, Limits(timeout=1.5, max_bytes=1000, max_redirects=2))
            return await fetcher.fetch(parse_url(f"http://127.0.0.1:{sender.port}/"))

    sender.data = data
    try:
        assert asyncio.run(fetch())
    except FetchError as error:
        told(error, *(failure for failure in UNFETCHED if failure not in TIMEOUTS))  # the server has hung up: no waiting
