import asyncio
import errno
import socket
import time
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from yarl import URL

from pairsift.stages.download.addresses import PrivateAddressError
from pairsift.stages.download.fetch import Fetcher, FetchError, Limits, open_session, parse_url, redirect_target, retry_after
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=5, max_bytes=1_000_000, max_redirects=3)


def fetch(url: str) -> bytes:
    async def run() -> bytes:
        async with open_session("test", 2, allow_private_addresses=True) as session:
            return await Fetcher(session, LIMITS).fetch(URL(url))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("http://example.com/a b.jpg", "http://example.com/a%20b.jpg"),
        ("http://example.com/a%20b%2Fc.jpg?x=1&y=%26", "http://example.com/a%20b%2Fc.jpg?x=1&y=%26"),
        ("HTTPS://Example.COM/ü", "https://example.com/%C3%BC"),
        ("http://müller.de/", "http://xn--mller-kva.de/"),
        ("\thttp://example.com/a.jpg \n", "http://example.com/a.jpg"),
        ("http://my_host.example.com:8080/", "http://my_host.example.com:8080/"),
    ],
)
def test_urls_are_read_as_a_browser_reads_them(text: str, quoted: str) -> None:
    assert str(parse_url(text)) == quoted


@pytest.mark.parametrize("text", [None, "", "x", "/a/b", "//example.com/", "http:///a", "http://a:99999/", "http://a%00b/"])
def test_what_is_no_url(text: str | None) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.failure is Failure.INVALID_URL
    assert not caught.value.again


@pytest.mark.parametrize(
    "text",
    ["http://[2001:db8::1]:@", "http://[2001:\0db8::1]/a", "http://[20.db8::1]/", "http://ü2001:db8::1:80/", "http://[::1"],
)
def test_what_yarl_trips_over_sooner_or_later_is_no_url(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.failure is Failure.INVALID_URL
    with pytest.raises(FetchError) as caught:
        redirect_target(URL("http://example.com/a"), text)
    assert caught.value.failure is Failure.INVALID_URL


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/c", "http://example.com/c"),
        ("../c?x", "http://example.com/c?x"),
        ("//other.example", "http://other.example"),
        ("https://[2001:db8::1]:8080/ ü", "https://[2001:db8::1]:8080/%20%C3%BC"),
    ],
)
def test_where_redirects_lead(location: str, target: str) -> None:
    assert str(redirect_target(URL("http://example.com/a/b"), location)) == target


def test_the_body_comes_as_it_is(server: Any) -> None:
    assert fetch(server.url("/good")) == server.photo


def test_every_hop_is_checked_at_its_own_connection(server: Any) -> None:
    """As if 127.0.0.1 were public and 127.0.0.2 were not: the real check cannot be passed by a server on loopback."""

    def only_the_first(info: Any) -> socket.socket:
        if info[4][0] != "127.0.0.1":
            raise PrivateAddressError(info[4][0])
        return socket.socket(*info[:3])

    async def run(path: str) -> bytes:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=only_the_first)) as session:
            return await Fetcher(session, LIMITS).fetch(URL(server.url(path)))

    assert asyncio.run(run("/redirect?to=/good")) == server.photo
    elsewhere = server.url("/good").replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(FetchError) as caught:
        asyncio.run(run(f"/redirect?to={elsewhere}"))
    assert caught.value.failure is Failure.PRIVATE_ADDRESS


def test_running_out_of_file_descriptors_is_no_fate_of_a_row(server: Any) -> None:
    def none_left(_: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=none_left)) as session:
            await Fetcher(session, LIMITS).fetch(URL(server.url("/good")))

    with pytest.raises(OSError, match="ulimit -n"):
        asyncio.run(run())


def test_redirects_with_raw_bytes_in_them(server: Any) -> None:
    assert fetch(server.url("/redirect_raw")) == server.photo


def test_what_is_worth_another_attempt() -> None:
    assert FetchError(Failure.CONNECTION_LOST).again
    assert not FetchError(Failure.TIMEOUT).again
    assert not FetchError(Failure.HTTP_404).again
    assert not FetchError(Failure.DNS_ERROR, again=False).again


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 0 ", 0),
        ("-1", None),
        ("1.5", None),
        ("9" * 50, None),
        ("soon", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Fri, 99 Dec 1999 23:59:59 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_a_date() -> None:
    assert retry_after(formatdate(time.time() + 90, usegmt=True)) == pytest.approx(90, abs=2)
