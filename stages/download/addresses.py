"""Which network addresses may be connected to: public ones, and what the user allows besides.

A list of URLs from strangers must not become a way into the network that the download runs in (server-side request
forgery). So it is the address of the connection that is checked, not the look of the URL: names are checked as they
resolve, and every socket once more as it is made, whatever spelling of an address got it so far (`127.1`, `0x7f000001`,
`::ffff:10.0.0.1`, a public name that resolves to a private address, a redirect to any of these).
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

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

    def socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """A socket for an address that `getaddrinfo` gave: aiohttp's `socket_factory`. Raises PrivateAddressError."""
        family, kind, protocol, _, address = address_info
        if not self.allows(address[0]):
            raise PrivateAddressError(f"{address[0]} is not a public address")
        return socket.socket(family, kind, protocol)


class Resolver(AbstractResolver):
    """The system's resolver (getaddrinfo in the loop's default executor), less the addresses that may not be used.

    `system`: another resolver to ask in its place.
    """

    def __init__(self, rule: AddressRule, system: AbstractResolver | None = None) -> None:
        self._system = ThreadedResolver() if system is None else system
        self._rule = rule

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Raises PrivateAddressError where a name has addresses but none that may be used; OSError where it has none."""
        try:
            found = await self._system.resolve(host, port, family)
        except UnicodeError as error:  # a label of 64 bytes or more: no DNS query can carry it
            raise socket.gaierror(socket.EAI_NONAME, f"{host[:100]!r} is no valid host name") from error
        usable = [result for result in found if self._rule.allows(result["host"])]
        if found and not usable:
            raise PrivateAddressError(f"{host} resolves to {found[0]['host']}")
        return usable

    async def close(self) -> None:
        await self._system.close()
