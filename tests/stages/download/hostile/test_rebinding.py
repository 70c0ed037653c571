"""Names that are public first and private later, from a real name server: checked where the connection is made."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.names import NameServer, look_up
from hostile.server import GOOD, Server
from yarl import URL

from pairsift.stages.download.addresses import AddressInfo, AddressRule, LookUp, Resolver
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=5, max_bytes=8_000_000, max_redirects=5)


def asks(port: int) -> LookUp:
    """What the system's resolver does, but of a server on another port than 53."""

    async def look(host: str, target: int) -> list[AddressInfo]:
        addresses = await asyncio.to_thread(look_up, host, port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, target)) for address in addresses]

    return look


def fetch_twice(hostile: Server, system: LookUp, rule: AddressRule, of_names: AddressRule) -> list[bytes | Failure]:
    """Over new connections, without a memory of names. 127.0.0.1 stands for a public address: the rule allows it and the
    public ones, and no others."""

    async def run() -> list[bytes | Failure]:
        results: list[bytes | Failure] = []
        resolver = Resolver(of_names, system, fresh_seconds=0)
        for _ in range(2):
            async with Client("test", 2, rule, resolver=resolver) as client:
                try:
                    results.append(await Fetcher(client, LIMITS).fetch(URL(f"http://names.example:{hostile.port}/good")))
                except FetchError as error:
                    results.append(error.failure)
        return results

    return asyncio.run(run())


REFUSED = Failure.PRIVATE_ADDRESS


@pytest.mark.parametrize(
    ("answers", "fates"),
    [
        ([["127.0.0.1"], ["169.254.169.254"]], [GOOD, REFUSED]),
        ([["10.0.0.1", "192.168.0.1"]], [REFUSED, REFUSED]),
        ([["127.0.0.2", "127.0.0.1", "10.0.0.1"]], [GOOD, GOOD]),
    ],
)
def test_a_name_that_becomes_private(hostile: Server, answers: list[list[str]], fates: list[bytes | Failure]) -> None:
    rule = AddressRule(["127.0.0.1"])
    with NameServer({"names.example": answers}) as names:
        assert fetch_twice(hostile, asks(names.port), rule, rule) == fates
        assert names.asked["names.example"] == 2


def test_addresses_are_checked_at_the_connection_too(hostile: Server) -> None:
    """As if the resolver's answer had passed, and another one were connected to."""
    rule = AddressRule(["127.0.0.1"])
    with NameServer({"names.example": [["127.0.0.2"]]}) as names:
        assert fetch_twice(hostile, asks(names.port), rule, AddressRule(allow_private=True)) == [REFUSED] * 2


UNSHARE = ["unshare", "--map-root-user", "--mount", "--net"]


def may_unshare() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "ip", "mount"))
    return (
        tools and subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not may_unshare(), reason="this machine lets nobody make a network of his own")
def test_the_stage_as_it_is_with_the_system_resolver(tmp_path: Path) -> None:
    """In a network of its own, with a public address and that of a metadata service, and its own /etc/resolv.conf."""
    script = Path(__file__).with_name("rebinding.py")
    told = subprocess.run(
        [*UNSHARE, sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout)
    assert found["fates"] == {
        "http://honest.example/a": None,
        "http://rebinds.example/a": None,
        "http://rebinds.example:81/a": "private_address",
        "http://private.example/a": "private_address",
        "http://mixed.example/a": None,
        "http://away.example/to/private.example/a": "private_address",
        "http://away.example/to/rebinds.example:82/a": "private_address",
        "http://no-such-name.example/a": "dns_error",
    }
    assert found["requests"] == {"93.184.215.14": 5}  # and none at the others, where a server listens, too
    assert found["asked"]["rebinds.example"] == 3
