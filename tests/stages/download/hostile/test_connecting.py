"""What can go wrong between an address and the first request: TLS with odd names, early words, and rows that are given up."""

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
from hostile.certificates import Authority
from yarl import URL

from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client, Progress
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=2, max_bytes=1_000_000, max_redirects=3)


@pytest.mark.filterwarnings(
    # asyncio of 3.10 complains of its half of a handshake that was given up; the connection itself is closed.
    "ignore:unclosed transport <asyncio.sslproto" if sys.version_info < (3, 11) else "error"
)
def test_a_row_that_is_given_up_leaves_nothing_behind_whenever_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each round of the loop, that in which a handshake ends among them: asyncio refuses the next socket if it believes that
    its descriptor is in use."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # of the server's complaints
        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=authority.server_context("valid"))
        url = URL(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        async with Client("test", 2, AddressRule(allow_private=True)) as client:
            for rounds in range(60):
                fetch = asyncio.ensure_future(Fetcher(client, LIMITS).fetch(url))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                fetch.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await fetch
        listening.close()
        await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_host_that_speaks_with_its_handshake_is_not_listened_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy, too, where asyncio passes on what it says before it says that there is a connection."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    context = authority.server_context("valid")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the server has the handshake's last word
    complaints: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(coming, going, server_side=True)
        first = await reader.read(65536)
        if first.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            first = await reader.read(65536)
        coming.write(first)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(going.read())
                coming.write(await reader.read(65536))
        tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
        writer.write(going.read())
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async def run(*, proxied: bool) -> Failure:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        origin = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with Client("test", 2, AddressRule(allow_private=True), proxy=f"http://{origin}" if proxied else None) as client:
            with pytest.raises(FetchError) as caught:
                await Fetcher(client, LIMITS).fetch(URL(f"https://{origin}/"))
        listening.close()
        await asyncio.sleep(0.02)
        return caught.value.failure

    for proxied in (False, True):
        assert asyncio.run(run(proxied=proxied)) is Failure.CONNECTION_LOST
    assert complaints == []


def test_what_is_said_behind_an_answer_is_seen_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS, too, whose own messages all come before the answer."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    context = authority.server_context("valid")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"

    def serve(listening: socket.socket, taken: threading.Event, said: threading.Event, done: threading.Event) -> None:
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True) as speaking:
            speaking.recv(65536)
            speaking.sendall(answer)
            taken.wait(5)
            speaking.sendall(answer)
            said.set()
            done.wait(5)

    async def run(port: int, taken: threading.Event, said: threading.Event) -> None:
        async with Client("test", 2, AddressRule(allow_private=True)) as client:
            got = await client.get(URL(f"https://127.0.0.1:{port}/"), Progress())
            assert await got.connection.whole(4) == b"body"
            assert got.connection.usable
            taken.set()
            assert said.wait(5)  # the loop stands still
            assert not got.connection.usable

    taken, said, done = threading.Event(), threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening, taken, said, done))
        server.start()
        try:
            asyncio.run(run(listening.getsockname()[1], taken, said))
        finally:
            done.set()
            server.join()


@pytest.mark.parametrize("host", [".", ".a.example", "a..b", "a" * 64 + ".example"])
def test_names_that_no_certificate_can_have(host: str) -> None:
    """A proxy may be asked for them; TLS may not, and without a name it would trust anybody's certificate."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read()
        writer.close()

    async def run() -> FetchError:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with Client("test", 2, AddressRule(allow_private=True), proxy=proxy) as client:
            with pytest.raises(FetchError) as caught:
                await Fetcher(client, LIMITS).fetch(URL(f"https://{host}/"))
        listening.close()
        await asyncio.sleep(0.02)
        return caught.value

    assert asyncio.run(run()).failure is Failure.INVALID_URL
