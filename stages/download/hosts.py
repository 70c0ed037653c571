"""Turns at hosts: how many requests each host gets from this worker, how fast, and what happens to one in trouble.

A host is a host name; its ports and schemes count together. What is known of a host (`host.Host`):

- It has at most `concurrency` requests under way, and their starts are at least an interval apart: the larger of the user's
  rate, of robots.txt's Crawl-delay, and of the pace that its own trouble asks for.
- 429 and 503, and other faults in a row, halve its concurrency and double its pace; each answer that comes takes a part of
  that back. Retry-After is kept to the second.
- After `DOWN_AFTER` attempts in a row that found nobody there it is down: its rows fail at once, but for an occasional probe.

Waiting costs no connection, and no row fails for the length of our own queue. A wait that the *host* asks for (Retry-After,
a slower pace, Crawl-delay) is bounded by the patience of each row, so that no host can hold up a run: beyond it the row
fails as `throttled`, which another run may ask again.
"""

import asyncio
from collections import OrderedDict, deque

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.host import FIRST_PROBE_SECONDS, Host, HostLimits, Patience, Waiter
from pairsift.stages.download.host_names import is_loopback

_MAX_HOSTS = 10_000  # hosts with nothing under way that are remembered


class Turn:
    """Leave to ask one host once. `leave` says what came of it; leaving again does nothing."""

    def __init__(self, hosts: "Hosts", host: Host | None, began: float) -> None:
        self._hosts = hosts
        self._host = host
        self._began = began

    def leave(self, error: FetchError | None = None, *, answered: bool = True) -> None:
        """`answered` is False where the attempt was given up for reasons of our own: nothing is learnt from it."""
        host, self._host = self._host, None
        if host is not None:
            self._hosts.left(host, self._began, error, answered)


class Hosts:
    """All hosts that one worker asks. Lives on the network loop."""

    def __init__(self, limits: HostLimits, first_probe: float = FIRST_PROBE_SECONDS) -> None:
        """`limits`: this worker's share. `first_probe`: seconds that a host that is down is left alone at first."""
        self._limits = limits
        self._first_probe = first_probe
        self._interval = 0.0 if limits.rate is None else 1 / limits.rate
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    async def enter(self, name: str, patience: Patience) -> Turn:
        """Wait for a turn at the host.

        Raises:
            FetchError: the host is down, or it asks for more time than the row has patience.
        """
        now = asyncio.get_running_loop().time()
        if not self._limits.loopback and is_loopback(name):
            return Turn(self, None, now)
        host = self._known(name)
        host.refuse_if_down(now)
        if host.waiting or not host.may_start(now):
            await self._wait(host, patience, now)
        else:
            host.start(now)
        return Turn(self, host, asyncio.get_running_loop().time())

    def set_crawl_delay(self, name: str, seconds: float) -> None:
        """What robots.txt asks for, between the starts of two requests of this worker."""
        if self._limits.loopback or not is_loopback(name):
            self._known(name).crawl_delay = seconds

    def left(self, host: Host, began: float, error: FetchError | None, answered: bool) -> None:
        """A turn is over; `began` is when it started."""
        host.active -= 1
        if answered:
            host.learn(began, asyncio.get_running_loop().time(), error)
        self._pump(host)

    def _known(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, self._limits.concurrency, self._interval, self._first_probe)
            self._forget_some()
        else:
            self._hosts.move_to_end(name)
        return host

    def _forget_some(self) -> None:
        for _ in range(len(self._hosts) - _MAX_HOSTS):
            name, host = self._hosts.popitem(last=False)
            if not host.idle:
                self._hosts[name] = host

    async def _wait(self, host: Host, patience: Patience, now: float) -> None:
        waiter = Waiter(patience, asyncio.get_running_loop().create_future())
        host.thin_out(deque([waiter]), len(host.waiting), now)
        if not waiter.turn.done():
            host.waiting.append(waiter)
            self._pump(host)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in host.waiting:
                host.waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                host.active -= 1  # it was given its turn and never took it
                self._pump(host)
            raise

    def _pump(self, host: Host) -> None:
        """Let those who wait start, as many as may; and look again when the next may."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while host.waiting and host.may_start(now):
            waiter = host.waiting.popleft()
            if not waiter.turn.done():
                host.start(now)
                waiter.turn.set_result(None)
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None
        if host.waiting and host.active < int(host.width):
            host.timer = loop.call_at(host.earliest, self._pump, host)
