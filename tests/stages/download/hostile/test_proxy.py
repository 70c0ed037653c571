import asyncio
import ssl
import sys
from pathlib import Path

import pytest
from hostile.server import GOOD, Server
from yarl import URL

from pairsift.stages.base import ConfigError
from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.proxy import TargetCheck
from pairsift.stages.fates import Failure


def verdict(url: str, allow_private: bool | list[str] = False) -> Failure | None:
    async def work() -> Failure | None:
        check = TargetCheck(allow_private)
        for _ in range(2):  # the second time from memory, where there is one
            try:
                await check.check(URL(url), 5)
            except FetchError as error:
                return error.failure
        return None

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "failure"),
    [
        ("http://127.0.0.1/", Failure.PRIVATE_ADDRESS),
        ("http://localhost:8080/", Failure.PRIVATE_ADDRESS),
        ("http://[::1]/", Failure.PRIVATE_ADDRESS),
        ("http://169.254.169.254/latest/", Failure.PRIVATE_ADDRESS),
        ("http://0x7f000001/", Failure.PRIVATE_ADDRESS),
        ("http://no-such-host.invalid/", Failure.DNS_ERROR),
        ("http://8.8.8.8/", None),
    ],
)
def test_targets_are_looked_at(url: str, failure: Failure | None) -> None:
    assert verdict(url) is failure


def test_what_is_allowed_is_not_looked_up() -> None:
    assert verdict("http://10.1.2.3/", ["10.0.0.0/8"]) is None
    assert verdict("http://no-such-host.invalid/", allow_private=True) is None


class Tunnel:
    """A proxy that says what it is told to CONNECT, and then leads to a TLS server."""

    def __init__(
        self, target: int, says: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n", tls: ssl.SSLContext | None = None
    ) -> None:
        self._target, self._says, self._tls = target, says, tls
        self.asked: list[str] = []

    async def __aenter__(self) -> "Tunnel":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(self._says)
        await asyncio.gather(_pass(reader, there), _pass(there_reader, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


async def through(tunnel: Tunnel, hostile: Server, to: str = "http://") -> list[bytes]:
    """What comes of two requests over TLS. `to`: how the proxy's URL begins."""
    async with Client("test", 2, AddressRule(["127.0.0.1"]), proxy=f"{to}127.0.0.1:{tunnel.port}") as client:
        fetcher = Fetcher(client, Limits(5, 8_000_000, 0))
        return [await fetcher.fetch(URL(f"https://127.0.0.1:{hostile.tls['valid']}/good")) for _ in range(2)]


def test_tls_goes_through_a_tunnel(hostile: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(hostile.authority.path))

    async def run() -> None:
        target = f"127.0.0.1:{hostile.tls['valid']}"
        async with Tunnel(hostile.tls["valid"]) as tunnel:
            assert await through(tunnel, hostile, "http://me:secret@") == [GOOD, GOOD]
            credentials = "Proxy-Authorization: Basic bWU6c2VjcmV0"
            assert tunnel.asked == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n\r\n"]  # and is kept

    asyncio.run(run())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no TLS within TLS")
def test_tls_goes_through_tls(hostile: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(hostile.authority.path))

    async def run() -> None:
        async with Tunnel(hostile.tls["valid"], tls=hostile.authority.server_context("valid")) as tunnel:
            assert await through(tunnel, hostile, "https://") == [GOOD, GOOD]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("says", "error", "match"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", ConfigError, "other credentials: 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", FetchError, "the proxy says 502"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\nforged", FetchError, "more than it was asked"),
        (b"nonsense\r\n\r\n", FetchError, "Expected HTTP/"),
    ],
)
def test_tunnels_that_lead_nowhere(hostile: Server, says: bytes, error: type[Exception], match: str) -> None:
    async def run() -> None:
        async with Tunnel(hostile.tls["valid"], says) as tunnel:
            await through(tunnel, hostile)

    with pytest.raises(error, match=match):
        asyncio.run(run())


def test_a_server_behind_a_tunnel_is_checked_too(hostile: Server) -> None:
    async def run() -> None:
        async with Tunnel(hostile.tls["valid"]) as tunnel:
            await through(tunnel, hostile)

    with pytest.raises(FetchError) as caught:
        asyncio.run(run())  # nobody trusts the tests' authority
    assert caught.value.failure is Failure.CERTIFICATE_ERROR
