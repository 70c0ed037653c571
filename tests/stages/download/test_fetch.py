import asyncio
import errno
import socket
from typing import Any

import pytest
from yarl import URL

from pairsift.stages.download.addresses import AddressInfo, AddressRule, PrivateAddressError
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=5, max_bytes=1_000_000, max_redirects=3)


def fetch(url: str) -> bytes:
    async def run() -> bytes:
        async with Client("test", 2, AddressRule(allow_private=True)) as client:
            return await Fetcher(client, LIMITS).fetch(URL(url))

    return asyncio.run(run())


def test_the_body_comes_as_it_is(server: Any) -> None:
    assert fetch(server.url("/good")) == server.photo


def test_every_hop_is_checked_at_its_own_connection(server: Any) -> None:
    """As if 127.0.0.1 were public and 127.0.0.2 were not: the real check cannot be passed by a server on loopback."""

    class OnlyTheFirst(AddressRule):
        def socket(self, address_info: AddressInfo) -> socket.socket:
            if address_info[4][0] != "127.0.0.1":
                raise PrivateAddressError(address_info[4][0])
            return super().socket(address_info)

    async def run(path: str) -> bytes:
        async with Client("test", 2, OnlyTheFirst(allow_private=True)) as client:
            return await Fetcher(client, LIMITS).fetch(URL(server.url(path)))

    assert asyncio.run(run("/redirect?to=/good")) == server.photo
    elsewhere = server.url("/good").replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(FetchError) as caught:
        asyncio.run(run(f"/redirect?to={elsewhere}"))
    assert caught.value.failure is Failure.PRIVATE_ADDRESS


def test_running_out_of_file_descriptors_is_no_fate_of_a_row(server: Any) -> None:
    class NoneLeft(AddressRule):
        def socket(self, address_info: AddressInfo) -> socket.socket:
            raise OSError(errno.EMFILE, "Too many open files")

    async def run() -> None:
        async with Client("test", 2, NoneLeft(allow_private=True)) as client:
            await Fetcher(client, LIMITS).fetch(URL(server.url("/good")))

    with pytest.raises(OSError, match="ulimit -n"):
        asyncio.run(run())


def test_redirects_with_raw_bytes_in_them(server: Any) -> None:
    assert fetch(server.url("/redirect_raw")) == server.photo
