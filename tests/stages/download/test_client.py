"""What a request was waiting for when its deadline ran out."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from yarl import URL

from pairsift.stages.download.addresses import AddressInfo, AddressRule, Resolver
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=0.5, max_bytes=1_000_000, max_redirects=3)


def failure(client: Callable[[], Client], url: str) -> Failure:
    """Of a fetch by a client that is made on its loop; within a second."""

    async def run() -> None:
        async with client() as opened:
            await Fetcher(opened, LIMITS).fetch(URL(url))

    began = time.monotonic()
    with pytest.raises(FetchError) as caught:
        asyncio.run(run())
    assert time.monotonic() - began < 1.5
    assert not caught.value.again
    return caught.value.failure


def usual() -> Client:
    return Client("test", 2, AddressRule(allow_private=True))


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

    async def ask(host: str, _: int) -> list[AddressInfo]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf, socket.socket(type=socket.SOCK_DGRAM) as asking:
            deaf.bind(("127.0.0.1", 0))
            asking.setblocking(False)
            asking.connect(deaf.getsockname())
            asking.send(host.encode())
            await asyncio.get_running_loop().sock_recv(asking, 512)
        return []

    def client() -> Client:
        rule = AddressRule(allow_private=True)
        return Client("test", 2, rule, resolver=Resolver(rule, ask))

    assert failure(client, "http://names.example/") is Failure.DNS_TIMEOUT


def test_a_connection_that_is_kept_alive_is_heard_anew(server: Any) -> None:
    """What came for the last request is no part of the answer to this one."""

    async def run() -> list[Failure | int]:
        found: list[Failure | int] = []
        async with usual() as client:
            fetcher = Fetcher(client, LIMITS)
            for path in ("/good", "/hangs", "/good", "/drips"):
                try:
                    found.append(len(await fetcher.fetch(URL(server.url(path)))))
                except FetchError as error:
                    found.append(error.failure)
        return found

    size = len(server.photo)
    assert asyncio.run(run()) == [size, Failure.NO_ANSWER, size, Failure.TIMEOUT]
