import asyncio
import errno
import socket
from typing import Any

import aiohttp
import pytest
from yarl import URL

from pairsift.stages.download.addresses import PrivateAddressError
from pairsift.stages.download.body import Limits
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.session import open_session
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=5, max_bytes=1_000_000, max_redirects=3)


def fetch(url: str) -> bytes:
    async def run() -> bytes:
        async with open_session("test", 2, allow_private_addresses=True) as session:
            return await Fetcher(session, LIMITS).fetch(URL(url))

    return asyncio.run(run())


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
