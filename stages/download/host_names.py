"""Hosts by their names: which are loopback, and in what order rows of many hosts are started."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar

T = TypeVar("T")


@lru_cache(maxsize=10_000)
def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is loopback by its very name: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(text: str | None) -> str:
    """The host of a URL as it is listed, roughly: only for taking turns."""
    return (text or "").partition("://")[2].partition("/")[0].lower()


def interleaved(items: Sequence[T], hosts: Iterable[str]) -> list[T]:
    """The items in an order of starting that goes round the hosts: the first of each, then the second of each, …"""
    seen: dict[str, int] = defaultdict(int)
    rounds: list[list[T]] = []
    for item, host in zip(items, hosts, strict=True):
        if seen[host] == len(rounds):
            rounds.append([])
        rounds[seen[host]].append(item)
        seen[host] += 1
    return [item for items_of_round in rounds for item in items_of_round]
