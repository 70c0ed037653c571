import asyncio
import socket

import pytest

from pairsift.stages.download.addresses import AddressInfo, AddressRule, PrivateAddressError, Resolver, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.3",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # the metadata service of most clouds
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "0177.0.0.1",
        "127.1",
        "2130706433",
        "localhost",
        "",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


def test_names_are_judged_by_their_addresses() -> None:
    async def look_up(allow_private: bool) -> list[str]:
        resolver = Resolver(AddressRule(allow_private))
        return [info[4][0] for info in await resolver.resolve("localhost", 80)]

    assert set(asyncio.run(look_up(allow_private=True))) <= {"127.0.0.1", "::1"}
    with pytest.raises(PrivateAddressError, match="localhost resolves to"):
        asyncio.run(look_up(allow_private=False))


def test_a_name_is_looked_up_once_for_all_who_ask() -> None:
    """And goes on to be looked up when who asked first is gone. What failed is asked for anew."""
    asked: list[str] = []

    async def slowly(host: str, port: int) -> list[AddressInfo]:
        asked.append(host)
        await asyncio.sleep(0.05)
        if host == "bad.example" and len(asked) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    async def run() -> None:
        resolver = Resolver(AddressRule(allow_private=False), slowly, fresh_seconds=0.5)
        first = asyncio.ensure_future(resolver.resolve("a.example", 80))
        others = [asyncio.ensure_future(resolver.resolve("a.example", 80)) for _ in range(5)]
        await asyncio.sleep(0.01)
        first.cancel()
        assert [found[0][4] for found in await asyncio.gather(*others)] == [("8.8.8.8", 80)] * 5
        await resolver.resolve("a.example", 80)
        assert asked == ["a.example"]
        failed = await asyncio.gather(*(resolver.resolve("bad.example", 80) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failed] == [socket.gaierror] * 3
        assert await resolver.resolve("bad.example", 80)
        assert asked == ["a.example", "bad.example", "bad.example"]
        await asyncio.sleep(0.5)
        await resolver.resolve("a.example", 80)
        assert len(asked) == 4
        await resolver.resolve("1.1.1.1", 80)
        assert len(asked) == 4

    asyncio.run(run())


def test_a_name_without_an_address_does_not_exist() -> None:
    async def nothing(_: str, __: int) -> list[AddressInfo]:
        return []

    with pytest.raises(socket.gaierror, match="no address"):
        asyncio.run(Resolver(AddressRule(allow_private=True), nothing).resolve("a.example", 80))


def test_a_name_no_query_can_carry_does_not_exist() -> None:
    async def look_up() -> None:
        await Resolver(AddressRule(allow_private=False)).resolve("a" * 64 + ".invalid", 80)

    with pytest.raises(socket.gaierror) as caught:
        asyncio.run(look_up())
    assert caught.value.errno == socket.EAI_NONAME


def test_sockets_are_made_for_allowed_addresses_only() -> None:
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    rule = AddressRule(["127.0.0.0/30"])
    for address in ("8.8.8.8", "127.0.0.1"):
        with rule.socket((*kind, (address, 80))) as made:
            assert made.type == socket.SOCK_STREAM
    with pytest.raises(PrivateAddressError):
        rule.socket((*kind, ("127.0.0.4", 80)))


def test_what_is_allowed_besides_the_public_addresses() -> None:
    rule = AddressRule(["10.1.2.0/24", "fd00::/8"])
    assert [a for a in ("10.1.2.3", "10.1.3.1", "fd12::1", "::1", "8.8.8.8", "localhost") if rule.allows(a)] == [
        "10.1.2.3",
        "fd12::1",
        "8.8.8.8",
    ]
    assert AddressRule(allow_private=True).allows("169.254.169.254")
    with pytest.raises(ValueError, match="host bits"):
        AddressRule(["10.1.2.3/24"])
