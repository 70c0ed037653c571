"""HTTP/1.1 as servers speak it, byte by byte, from a server on the test's own loop that says what it is told to say."""

import asyncio
import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from yarl import URL

from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client, Progress
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=3, max_bytes=1_000_000, max_redirects=2)
CLOSE = b"close"  # a word of `Script`: the server hangs up
OK = b"HTTP/1.1 200 OK\r\n"
SHORT = OK + b"Content-Length: 4\r\n\r\nbody"

Script = Sequence[bytes | float]  # what a server says after each request; numbers are seconds of silence


class Scripted:
    """A server whose connections each follow their script: one answer per request."""

    def __init__(self, *connections: Sequence[Script]) -> None:
        self._connections = list(connections)
        self.requests: list[str] = []
        self.connections = 0

    async def __aenter__(self) -> "Scripted":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripts = self._connections[min(self.connections, len(self._connections) - 1)]
        self.connections += 1
        try:
            for script in scripts:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                for word in script:
                    if isinstance(word, float):
                        await asyncio.sleep(word)
                    elif word == CLOSE:
                        return
                    else:
                        writer.write(word)
                        await writer.drain()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def rule() -> AddressRule:
    return AddressRule(allow_private=True)


async def fetched(server: Scripted, times: int = 1, **options: Any) -> list[bytes | Failure]:
    outcomes: list[bytes | Failure] = []
    async with Client("test", 4, rule(), **options) as client:
        for _ in range(times):
            try:
                outcomes.append(await Fetcher(client, LIMITS).fetch(URL(f"http://127.0.0.1:{server.port}/a")))
            except FetchError as error:
                outcomes.append(error.failure)
            await asyncio.sleep(0.02)
    return outcomes


def outcome(*script: bytes | float) -> bytes | Failure:
    """Of one request."""

    async def run() -> bytes | Failure:
        async with Scripted([script]) as server:
            return (await fetched(server))[0]

    return asyncio.run(run())


BIG = bytes(range(256)) * 2000
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        (SHORT,),
        tuple(SHORT[i : i + 1] for i in range(len(SHORT))),
        (b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",),
        (b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",),
        (OK + b"Content-Length:4\r\nX-Empty:\r\n\r\nbody",),
        (OK + b"X-Folded: a\r\n b\r\nContent-Length: 4\r\n\r\nbody",),
        (OK + b"X-Control: \x01\x02\r\nX-Latin: \xe9\r\nContent-Length: 4\r\n\r\nbody",),
        (OK + b"Connection: close\r\n\r\nbody", CLOSE),
        (b"HTTP/1.0 200 OK\r\n\r\nbo", 0.05, b"dy", CLOSE),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 0.02, SHORT),
        (CHUNKED + b"2;x=y\r\nbo\r\n2 \r\ndy\r\n0\r\nX-Trailer: 1\r\n\r\n",),
        (OK + b"Transfer-Encoding: identity\r\n\r\nbo", 0.02, b"dy", CLOSE),
        (OK + b"Transfer-Encoding: xchunked\r\n\r\nbo", 0.02, b"dy", CLOSE),
        (OK + b"Transfer-Encoding: identity\r\nTransfer-Encoding:\tChunked \r\n\r\n4\r\nbody\r\n0\r\n\r\n",),
        (CHUNKED, 0.02, b"2\r\nbo", 0.02, b"\r\n2\r\ndy\r\n0\r\n", 0.02, b"\r\n"),
        (OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 4\r\n\r\nbody",),
    ],
)
def test_what_servers_say_is_understood(script: Script) -> None:
    assert outcome(*script) == b"body"


@pytest.mark.parametrize("cut", [1, 100, 65_535, 65_536, 70_000, len(BIG)])
def test_a_body_comes_whole_wherever_it_is_cut(cut: int) -> None:
    head = OK + b"Content-Length: %d\r\n\r\n" % len(BIG)
    assert outcome(head + BIG[:cut], 0.02, BIG[cut:]) == BIG
    assert outcome(CHUNKED + b"%x\r\n" % len(BIG) + BIG[:cut], 0.02, BIG[cut:] + b"\r\n0\r\n\r\n") == BIG
    assert outcome(OK + b"\r\n" + BIG[:cut], 0.02, BIG[cut:], CLOSE) == BIG


DEFLATED = zlib.compress(b"body")


def gzipped(data: bytes) -> bytes:
    """Without the time: it would be in the tests' names, which several processes have to agree on."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body", "expected"),
    [
        (b"gzip", gzipped(b"body"), b"body"),
        (b"GZip", gzipped(b"bo") + gzipped(b"dy"), b"body"),
        (b"gzip", gzipped(b"body") + bytes(50), b"body"),
        (b"deflate", DEFLATED, b"body"),
        (b"deflate", DEFLATED[2:-4], b"body"),  # without zlib's envelope
        (b"identity", b"body", b"body"),
        (b"", b"body", b"body"),
        (b"identity, utf-8, none", b"body", b"body"),
        (b"x-gzip, identity", gzipped(b"body"), b"body"),
        (b"gzip", gzipped(BIG), BIG),
        (b"gzip", gzipped(b"body")[:-9], Failure.BAD_ENCODING),
        (b"gzip", b"body", Failure.BAD_ENCODING),
        (b"deflate", b"\x78\x9c\xff\xff\xff", Failure.BAD_ENCODING),
        (b"gzip", gzipped(b""), Failure.EMPTY_BODY),
        (b"gzip", gzipped(bytes(2_000_000)), Failure.COMPRESSION_BOMB),
        (b"gzip", gzipped(b"") * 999 + gzipped(b"body"), b"body"),
        (b"gzip", gzipped(b"") * 1000 + gzipped(b"body"), Failure.BAD_ENCODING),
        (b"br", b"body", Failure.BAD_ENCODING),
        (b"gzip, gzip", gzipped(b"body"), Failure.BAD_ENCODING),
    ],
)
@pytest.mark.parametrize("pieces", [False, True])
def test_content_encodings(coding: bytes, body: bytes, expected: bytes | Failure, pieces: bool) -> None:
    head = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
    step = max(1, len(body) // 20)
    parts: list[bytes | float] = [body]
    if pieces:
        parts = [word for at in range(0, len(body), step) for word in (body[at : at + step], 0.002)]
    assert outcome(head, *parts) == expected


def test_a_body_that_inflates_to_nothing_is_not_read_for_ever() -> None:
    nothing = b"\x00\x00\x00\xff\xff" * 10_000  # empty blocks
    head = OK + b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert outcome(head, *[b"%x\r\n%b\r\n" % (len(nothing), nothing)] * 40) is Failure.TOO_MANY_BYTES


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ((OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",), Failure.PROTOCOL_ERROR),
        ((OK + b"Content-Length: four\r\n\r\nbody",), Failure.PROTOCOL_ERROR),
        ((OK + b"Content-Length: +4\r\n\r\nbody",), Failure.PROTOCOL_ERROR),
        ((OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nbody",), Failure.PROTOCOL_ERROR),
        ((OK + b"X-Null: a\0b\r\nContent-Length: 4\r\n\r\nbody",), Failure.PROTOCOL_ERROR),
        ((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",), Failure.PROTOCOL_ERROR),
        ((b"HTTP/2 200 OK\r\n\r\n",), Failure.PROTOCOL_ERROR),
        ((b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",), Failure.PROTOCOL_ERROR),
        ((OK + b"Content-Le", CLOSE), Failure.CONNECTION_LOST),
        ((CLOSE,), Failure.CONNECTION_LOST),
        ((OK + b"Content-Length: 5\r\n\r\nbody", CLOSE), Failure.INCOMPLETE_BODY),
        ((CHUNKED + b"5\r\nbody", CLOSE), Failure.INCOMPLETE_BODY),
        (
            (OK + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbody", CLOSE),
            Failure.INCOMPLETE_BODY,
        ),
        ((b"HTTP/1.1 099 Early\r\n\r\n", SHORT), Failure.PROTOCOL_ERROR),
        ((CHUNKED + b"4\r\nbodyX\r\n0\r\n\r\n",), Failure.BAD_CHUNKS),
        ((CHUNKED + b"4\r\nbody\r\n0\r\nX-Endless: ", *[b"x" * 65_536] * 4), Failure.BAD_CHUNKS),
        ((CHUNKED + b"4;", *[b"x" * 65_536] * 4), Failure.BAD_CHUNKS),
        ((OK + b"X-Long: ", *[b"x" * 65_536] * 4), Failure.HEADERS_TOO_LARGE),
        ((OK, *[b"X-%d: y\r\n" % i for i in range(20_000)]), Failure.HEADERS_TOO_LARGE),
        (([b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 8), Failure.HEADERS_TOO_LARGE),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), Failure.EMPTY_BODY),
        ((OK + b"Content-Length: 0\r\n\r\n",), Failure.EMPTY_BODY),
        ((CHUNKED + b"0\r\n\r\n",), Failure.EMPTY_BODY),
    ],
)
def test_nonsense_has_a_name(script: Script, failure: Failure) -> None:
    assert outcome(*script) is failure


def test_a_connection_is_used_again_only_after_a_whole_answer() -> None:
    surplus = OK + b"Content-Length: 6\r\n\r\nforged"

    async def connections(*first: Script) -> tuple[list[bytes | Failure], int]:
        async with Scripted([*first, [SHORT]], [[SHORT], [SHORT]]) as server:
            return await fetched(server, 2), server.connections

    async def run() -> None:
        body, big = b"body", OK + b"Content-Length: %d\r\n\r\n" % len(BIG)
        assert await connections([SHORT]) == ([body, body], 1)
        assert await connections([CHUNKED + b"4\r\nbody\r\n0\r\n\r\n"]) == ([body, body], 1)
        assert await connections([b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno"]) == ([Failure.HTTP_404, body], 1)
        assert await connections([b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nno"]) == ([Failure.HTTP_404, body], 2)
        assert await connections([OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody"]) == ([body, body], 2)
        assert await connections([b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"]) == ([body, body], 2)
        # An answer that nobody asked for, with the first, behind it, or behind a body that is received into its place.
        assert await connections([SHORT + surplus]) == ([body, body], 2)
        assert await connections([SHORT, 0.005, surplus]) == ([body, body], 2)
        assert await connections([big + BIG[:70_000], 0.05, BIG[70_000:] + surplus]) == ([BIG, body], 2)

    asyncio.run(run())


def test_a_connection_that_was_idle_for_too_long_is_no_fate() -> None:
    """The server hangs up when it hears from it again."""

    async def run() -> None:
        async with Scripted([[SHORT], [CLOSE]], [[SHORT]]) as server:
            assert await fetched(server, 2) == [b"body", b"body"]
            assert (server.connections, len(server.requests)) == (2, 3)
        async with Scripted([[CLOSE]], [[SHORT]]) as server:  # but a new one that says nothing is
            assert await fetched(server) == [Failure.CONNECTION_LOST]

    asyncio.run(run())


def test_idle_connections_are_closed() -> None:
    async def run() -> None:
        async with Scripted([[SHORT], [SHORT]]) as server, Client("test", 4, rule(), keep_alive_seconds=0.05) as client:
            fetcher = Fetcher(client, LIMITS)
            url = URL(f"http://127.0.0.1:{server.port}/a")
            await fetcher.fetch(url)
            assert len(client._open) == 1
            await asyncio.sleep(1)
            assert not client._open
            await fetcher.fetch(url)
            assert server.connections == 2

    asyncio.run(run())


def test_the_oldest_idle_connection_gives_way_to_a_new_one() -> None:
    async def run() -> None:
        async with Client("test", 2, rule()) as client:
            for _ in range(4):
                async with Scripted([[SHORT]]) as server:
                    await Fetcher(client, LIMITS).fetch(URL(f"http://127.0.0.1:{server.port}/a"))
                    await asyncio.sleep(0.01)
                    assert len(client._open) <= 2

    asyncio.run(run())


def test_connections_that_are_being_made_count() -> None:
    async def run() -> None:
        async with Client("test", 4, rule()) as client, Scripted([[SHORT]]) as first, Scripted([[SHORT]]) as second:
            for server, rows in ((first, 3), (second, 4)):
                url = URL(f"http://127.0.0.1:{server.port}/a")
                await asyncio.gather(*(Fetcher(client, LIMITS).fetch(url) for _ in range(rows)))
            assert len(client._open) == 4

    asyncio.run(run())


def test_what_is_sent() -> None:
    async def request(url: str) -> list[str]:
        async with Scripted([[SHORT]]) as server, Client("test/1 (+mailto:a@b)", 4, rule()) as client:
            answer = await client.get(URL(url.format(port=server.port)), Progress())
            client.release(answer)
            lines = server.requests[0].split("\r\n")
            assert lines[1] == f"Host: 127.0.0.1:{server.port}"
            assert lines[-2:] == ["", ""]
            return [lines[0], *sorted(lines[2:-2])]

    usual = ["Accept-Encoding: identity", "Accept: */*", "User-Agent: test/1 (+mailto:a@b)"]
    assert asyncio.run(request("http://127.0.0.1:{port}/a b/ü?x=1 2&y=%20#part")) == [
        "GET /a%20b/%C3%BC?x=1+2&y=%20 HTTP/1.1",
        *usual,
    ]
    assert asyncio.run(request("http://127.0.0.1:{port}")) == ["GET / HTTP/1.1", *usual]
    credentials = "Authorization: Basic dTpww7w="
    assert asyncio.run(request("http://u:pü@127.0.0.1:{port}/")) == ["GET / HTTP/1.1", *usual[:2], credentials, *usual[2:]]


def test_nothing_gets_into_a_request_from_a_url() -> None:
    async def run(path: str) -> FetchError:
        async with Scripted([[SHORT]]) as server, Client("test", 4, rule()) as client:
            with pytest.raises(FetchError) as caught:
                await client.get(URL(f"http://127.0.0.1:{server.port}{path}", encoded=True), Progress())
            assert server.requests == []
            return caught.value

    for path in ("/a\r\nX-Injected: 1", "/a b", "/ü", "/a\0", "/a\x0bb"):
        assert asyncio.run(run(path)).failure is Failure.INVALID_URL
