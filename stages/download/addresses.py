"""Which network addresses may be connected to: public ones, and what the user allows besides.

A list of URLs from strangers must not become a way into the network that the download runs in (server-side request
forgery). So it is the address of the connection that is checked, not the look of the URL: names are checked as they
resolve, and every socket once more as it is made, whatever spelling of an address got it so far (`127.1`, `0x7f000001`,
`::ffff:10.0.0.1`, a public name that resolves to a private address, a redirect to any of these).
"""

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

AddressInfo = tuple[Any, ...]  # family, type, protocol, canonical name, address: as getaddrinfo gives them
LookUp = Callable[[str, int], Awaitable[list[AddressInfo]]]
_Host = tuple[str, int]
_MAX_HOSTS = 10_000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class PrivateAddressError(OSError):
    """A connection to an address that is not public was asked for."""


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to a host on the public internet.

    Private, loopback, link-local, shared (RFC 6598), reserved, unspecified and multicast ones do not. IPv6 addresses
    that stand for an IPv4 address (mapped, 6to4, NAT64) are judged by that one. What is no IP address is not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


class AddressRule:
    """Which addresses may be connected to: all, or the public ones and those in the given networks.

    Raises ValueError for what is no network ("10.1.2.0/24", "127.0.0.1", "fd00::/8").
    """

    def __init__(self, allow_private: bool | Sequence[str]) -> None:
        self.allows_all = allow_private is True
        self._networks = [ipaddress.ip_network(text) for text in allow_private] if not isinstance(allow_private, bool) else []

    def allows(self, address: str) -> bool:
        """Whether an IP address, as text, may be connected to."""
        if self.allows_all or is_public(address):
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    def socket(self, address_info: AddressInfo) -> socket.socket:
        """A socket for an address that `getaddrinfo` gave. Raises PrivateAddressError."""
        family, kind, protocol, _, address = address_info
        if not self.allows(address[0]):
            raise PrivateAddressError(f"{address[0]} is not a public address")
        return socket.socket(family, kind, protocol)


class Resolver:
    """The system's resolver (getaddrinfo in the loop's default executor), less the addresses that may not be used; it remembers
    what it has found.

    Lives on one loop. `system`: what to ask in getaddrinfo's place, by host and port. `fresh_seconds`: for how long an answer
    holds; a list of URLs asks for the same hosts again and again.
    """

    def __init__(self, rule: AddressRule, system: LookUp | None = None, fresh_seconds: float = 300) -> None:
        self._rule = rule
        self._system = system or _system
        self._fresh_seconds = fresh_seconds
        self._known: OrderedDict[_Host, tuple[float, list[AddressInfo]]] = OrderedDict()  # with until when, on the loop's clock
        self._asked: dict[_Host, asyncio.Task[list[AddressInfo]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """At least one address. Raises PrivateAddressError where there are addresses but none that may be used; gaierror where
        there is none."""
        if _is_ip_address(host):
            return self._usable(host, [_info(host, port)])
        key = (host, port)
        until, found = self._known.get(key, (0.0, []))
        if until > asyncio.get_running_loop().time():
            return found
        if key not in self._asked:
            self._asked[key] = asyncio.ensure_future(self._look_up(key))
            self._asked[key].add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # who asked may be gone
        return await asyncio.shield(self._asked[key])

    async def _look_up(self, key: _Host) -> list[AddressInfo]:
        try:
            found = self._usable(key[0], await self._system(*key))
        except UnicodeError as error:  # a label of 64 bytes or more: no DNS query can carry it
            raise socket.gaierror(socket.EAI_NONAME, f"{key[0][:100]!r} is no valid host name") from error
        finally:
            del self._asked[key]
        self._known.pop(key, None)
        self._known[key] = asyncio.get_running_loop().time() + self._fresh_seconds, found
        while len(self._known) > _MAX_HOSTS:
            self._known.popitem(last=False)
        return found

    def _usable(self, host: str, found: list[AddressInfo]) -> list[AddressInfo]:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
        usable = [info for info in found if self._rule.allows(info[4][0])]
        if not usable:
            raise PrivateAddressError(f"{host} resolves to {found[0][4][0]}")
        return usable


async def _system(host: str, port: int) -> list[AddressInfo]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _info(address: str, port: int) -> AddressInfo:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


def _is_ip_address(host: str) -> bool:
    """Whether a host is an IP address and no name. One with a zone (IPv6) counts as a name: only the system knows zones."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host
