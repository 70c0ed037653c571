"""What a request was waiting for when its deadline ran out."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pairsift.stages.download.body import Limits
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.session import _Connector, open_session
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=0.5, max_bytes=1_000_000, max_redirects=3)


def failure(session: Any, url: str) -> Failure:
    """Of a fetch over a session that is made on its loop; within a second."""

    async def run() -> None:
        async with session() as opened:
            await Fetcher(opened, LIMITS).fetch(URL(url))

    began = time.monotonic()
    with pytest.raises(FetchError) as caught:
        asyncio.run(run())
    assert time.monotonic() - began < 1.5
    assert not caught.value.again
    return caught.value.failure


def usual() -> aiohttp.ClientSession:
    return open_session("test", 2, allow_private_addresses=True)


@pytest.fixture
def crowded() -> Iterator[int]:
    """The port of a server that takes no connections any more: those who try are left to wait."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
        for client in waiting:
            client.close()


def test_nobody_lets_us_connect(crowded: int) -> None:
    assert failure(usual, f"http://127.0.0.1:{crowded}/") is Failure.CONNECT_TIMEOUT


def test_a_handshake_that_nobody_answers() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(5)
        assert failure(usual, f"https://127.0.0.1:{listening.getsockname()[1]}/") is Failure.TLS_TIMEOUT
        assert failure(usual, f"http://127.0.0.1:{listening.getsockname()[1]}/") is Failure.NO_ANSWER


def test_name_servers_that_do_not_answer() -> None:
    """The resolver's own socket asks a port where nobody answers."""

    class Asks(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf, socket.socket(type=socket.SOCK_DGRAM) as asking:
                deaf.bind(("127.0.0.1", 0))
                asking.setblocking(False)
                asking.connect(deaf.getsockname())
                asking.send(host.encode())
                await asyncio.get_running_loop().sock_recv(asking, 512)
            return []

        async def close(self) -> None:
            pass

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=_Connector(resolver=Asks()))

    assert failure(session, "http://names.example/") is Failure.DNS_TIMEOUT


def test_a_connection_that_is_kept_alive_is_heard_anew(server: Any) -> None:
    """What came for the last request is no part of the answer to this one."""

    async def run() -> list[Failure | int]:
        found: list[Failure | int] = []
        async with usual() as session:
            fetcher = Fetcher(session, LIMITS)
            for path in ("/good", "/hangs", "/good", "/drips"):
                try:
                    found.append(len(await fetcher.fetch(URL(server.url(path)))))
                except FetchError as error:
                    found.append(error.failure)
        return found

    size = len(server.photo)
    assert asyncio.run(run()) == [size, Failure.NO_ANSWER, size, Failure.TIMEOUT]
