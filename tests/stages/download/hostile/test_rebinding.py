"""Names that are public first and private later, from a real name server: checked where the connection is made."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hostile.names import NameServer, look_up
from hostile.server import GOOD, Server
from yarl import URL

from pairsift.stages.download.addresses import AddressRule, Resolver
from pairsift.stages.download.body import Limits
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.session import _Connector
from pairsift.stages.fates import Failure

LIMITS = Limits(timeout=5, max_bytes=8_000_000, max_redirects=5)


class Asks(AbstractResolver):
    """What the system's resolver does, but of a server on another port than 53."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        addresses = await asyncio.to_thread(look_up, host, self._port)
        return [
            ResolveResult(hostname=host, host=a, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST)
            for a in addresses
        ]

    async def close(self) -> None:
        pass


def fetch_twice(hostile: Server, resolver: AbstractResolver, rule: AddressRule) -> list[bytes | Failure]:
    """Over new connections, without a cache of names. 127.0.0.1 stands for a public address: the rule allows it and the
    public ones, and no others."""

    async def run() -> list[bytes | Failure]:
        connector = _Connector(resolver=resolver, socket_factory=rule.socket, use_dns_cache=False, force_close=True)
        results: list[bytes | Failure] = []
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(2):
                try:
                    results.append(await Fetcher(session, LIMITS).fetch(URL(f"http://names.example:{hostile.port}/good")))
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
        assert fetch_twice(hostile, Resolver(rule, Asks(names.port)), rule) == fates
        assert names.asked["names.example"] == 2


def test_addresses_are_checked_at_the_connection_too(hostile: Server) -> None:
    """As if the resolver's answer had passed, and another one were connected to."""
    rule = AddressRule(["127.0.0.1"])
    with NameServer({"names.example": [["127.0.0.2"]]}) as names:
        assert fetch_twice(hostile, Asks(names.port), rule) == [REFUSED] * 2


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
