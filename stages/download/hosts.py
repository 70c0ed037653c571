"""Turns at hosts: how many requests each host gets from this worker, how fast, and what happens to one in trouble.

A host is a host name; its ports and schemes count together. What is known of a host:

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
import math
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pairsift.stages.download.fetch import FetchError
from pairsift.stages.fates import Failure

DOWN_AFTER = 5  # attempts in a row that found nobody there
FIRST_PROBE_SECONDS = 30.0  # how long a host that is down is left alone; doubles with each probe that fails
LAST_PROBE_SECONDS = 600.0
SLOW_AFTER = 3  # other faults in a row
FIRST_PACE_SECONDS = 0.5  # between two starts, once a host is slowed
LAST_PACE_SECONDS = 16.0
_RECOVERY = 0.7  # what is left of the pace after each answer
_FORGETTABLE_PACE = 0.1  # seconds
_MAX_HOSTS = 10_000  # hosts with nothing under way that are remembered

_NOBODY_THERE = (Failure.DNS_ERROR, Failure.CONNECT_ERROR, Failure.TIMEOUT)
_TOO_MUCH = (Failure.HTTP_429, Failure.HTTP_5XX, Failure.CONNECTION_LOST, Failure.TIMEOUT, Failure.TOO_SLOW)

T = TypeVar("T")


class HostLimits(BaseModel):
    """What one host gets from the whole run, at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(8, ge=1, description="requests at a time")
    rate: float | None = Field(None, gt=0, description="requests per second; null: as many as it answers")
    loopback: bool = Field(False, description="whether loopback is limited, slowed and given up like other hosts")

    def share(self, workers: int) -> "HostLimits":
        """One worker's part. A rate is divided exactly; of requests at a time each worker keeps at least one."""
        rate = None if self.rate is None else self.rate / workers
        return HostLimits(concurrency=max(1, self.concurrency // workers), rate=rate, loopback=self.loopback)


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


@dataclass(eq=False)
class Patience:
    """How long one row still waits for hosts that ask for time, over all its attempts."""

    seconds: float
    ends: float | None = None  # on the loop's clock; None: no host has asked for time yet

    def allows(self, moment: float, now: float) -> bool:
        """Whether the row would wait until `moment`. Its patience begins to run out with the first such question."""
        if moment <= now:
            return True
        if self.ends is None:
            self.ends = now + self.seconds
        return moment <= self.ends


@dataclass(eq=False)
class _Waiter:
    patience: Patience
    turn: "asyncio.Future[None]"


@dataclass(eq=False, slots=True)
class _Host:
    """What is known of one host. Times are on the loop's clock."""

    name: str
    width: float  # requests at a time, now
    probe_after: float  # seconds from being found down, or from the last probe
    active: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    next_start: float = 0.0
    asked_until: float = 0.0  # no start before: Retry-After
    pace: float = 0.0  # seconds between two starts, while it is in trouble
    crawl_delay: float = 0.0  # seconds, from robots.txt
    slowed_at: float = -math.inf
    faults: int = 0  # in a row
    absences: int = 0  # attempts in a row that found nobody there
    down: Failure | None = None
    down_until: float = 0.0
    probing: bool = False

    @property
    def idle(self) -> bool:
        return not self.active and not self.waiting


class Turn:
    """Leave to ask one host once. `leave` says what came of it; leaving again does nothing."""

    def __init__(self, hosts: "Hosts", host: _Host | None, began: float) -> None:
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
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    async def enter(self, name: str, patience: Patience) -> Turn:
        """Wait for a turn at the host.

        Raises:
            FetchError: the host is down, or it asks for more time than the row has patience.
        """
        now = asyncio.get_running_loop().time()
        if not self._limits.loopback and is_loopback(name):
            return Turn(self, None, now)
        host = self._known(name)
        self._refuse_if_down(host, now)
        if host.waiting or not self._may_start(host, now):
            await self._wait(host, patience, now)
        else:
            self._start(host, now)
        return Turn(self, host, asyncio.get_running_loop().time())

    def set_crawl_delay(self, name: str, seconds: float) -> None:
        """What robots.txt asks for, between the starts of two requests of this worker."""
        if self._limits.loopback or not is_loopback(name):
            self._known(name).crawl_delay = seconds

    def left(self, host: _Host, began: float, error: FetchError | None, answered: bool) -> None:
        """A turn is over; `began` is when it started."""
        now = asyncio.get_running_loop().time()
        host.active -= 1
        if answered:
            self._learn(host, began, now, error)
        self._pump(host)

    def _known(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, self._limits.concurrency, self._first_probe)
            self._forget_some()
        else:
            self._hosts.move_to_end(name)
        return host

    def _forget_some(self) -> None:
        for _ in range(len(self._hosts) - _MAX_HOSTS):
            name, host = self._hosts.popitem(last=False)
            if not host.idle:
                self._hosts[name] = host

    # starting

    def _gap(self, host: _Host) -> float:
        return max(self._interval, host.pace, host.crawl_delay)

    def _earliest(self, host: _Host) -> float:
        return max(host.next_start, host.asked_until)

    def _may_start(self, host: _Host, now: float) -> bool:
        return host.active < int(host.width) and self._earliest(host) <= now

    def _start(self, host: _Host, now: float) -> None:
        host.active += 1
        host.next_start = now + self._gap(host)

    def _refuse_if_down(self, host: _Host, now: float) -> None:
        if host.down is None:
            return
        if now < host.down_until or host.active:
            raise _not_asked(host.down)
        host.probing, host.down_until = True, now + host.probe_after  # whoever comes meanwhile is refused

    async def _wait(self, host: _Host, patience: Patience, now: float) -> None:
        waiter = _Waiter(patience, asyncio.get_running_loop().create_future())
        self._thin_out(host, deque([waiter]), len(host.waiting), now)
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

    def _pump(self, host: _Host) -> None:
        """Let those who wait start, as many as may; and look again when the next may."""
        now = asyncio.get_running_loop().time()
        while host.waiting and self._may_start(host, now):
            waiter = host.waiting.popleft()
            if not waiter.turn.done():
                self._start(host, now)
                waiter.turn.set_result(None)
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None
        if host.waiting and host.active < int(host.width):
            host.timer = asyncio.get_running_loop().call_at(self._earliest(host), self._pump, host)

    def _thin_out(self, host: _Host, waiting: Iterable[_Waiter], ahead: int, now: float) -> deque[_Waiter]:
        """Refuse those of `waiting` (`ahead` others precede them) who would wait longer for the host's own wishes than they
        have patience; return the rest.

        Retry-After and Crawl-delay tell how long that is for each place in the queue. A pace that we took by ourselves does
        not, since it may be over soon: there, rows are refused once their patience has run out.
        """
        gap = host.crawl_delay if host.crawl_delay > self._interval else 0.0
        start = max(host.asked_until, host.next_start if gap or host.pace else 0.0, now)
        kept: deque[_Waiter] = deque()
        for waiter in waiting:
            if waiter.turn.done():
                continue
            moment = start + gap * (ahead + len(kept))
            if waiter.patience.allows(moment, now):
                kept.append(waiter)
            else:
                waiter.turn.set_exception(throttled(f"{host.name} asks for {moment - now:.0f} s"))
        return kept

    # learning

    def _learn(self, host: _Host, began: float, now: float, error: FetchError | None) -> None:
        failure = None if error is None else error.failure
        if failure in _NOBODY_THERE:
            host.absences += 1
            if host.absences >= DOWN_AFTER:
                assert failure is not None
                self._give_up(host, failure, now)
                return
        else:
            host.absences = 0
            host.down, host.probe_after = None, self._first_probe
        if error is not None and error.retry_after is not None:
            host.asked_until = max(host.asked_until, now + error.retry_after)
        if error is not None and failure in _TOO_MUCH:
            host.faults += 1
            # Requests that were under way when the host was slowed tell nothing about the slower pace.
            if began >= host.slowed_at and (_says_so(error) or host.faults >= SLOW_AFTER):
                self._slow_down(host, now)
        elif failure not in _NOBODY_THERE:
            self._recover(host)
        if host.waiting and (host.asked_until > now or host.pace):
            host.waiting = self._thin_out(host, host.waiting, 0, now)

    def _slow_down(self, host: _Host, now: float) -> None:
        host.slowed_at = now
        host.width = max(1.0, host.width / 2)
        host.pace = min(LAST_PACE_SECONDS, max(FIRST_PACE_SECONDS, 2 * host.pace))
        host.next_start = max(host.next_start, now + host.pace * random.uniform(0.5, 1.0))

    def _recover(self, host: _Host) -> None:
        host.faults = 0
        host.width = min(float(self._limits.concurrency), host.width + 0.5)
        host.pace *= _RECOVERY
        if 0.0 < host.pace < _FORGETTABLE_PACE:
            host.pace = 0.0
            for waiter in host.waiting:
                waiter.patience.ends = None

    def _give_up(self, host: _Host, failure: Failure, now: float) -> None:
        if host.down is not None:
            if not host.probing:  # it was under way already when the others found nobody
                return
            host.probe_after = min(LAST_PROBE_SECONDS, 2 * host.probe_after)
        host.down, host.down_until, host.probing = failure, now + host.probe_after, False
        for waiter in host.waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(_not_asked(failure))
        host.waiting.clear()


def _says_so(error: FetchError) -> bool:
    return error.failure is Failure.HTTP_429 or error.status == 503


def _not_asked(failure: Failure) -> FetchError:
    return FetchError(failure, "host is down: not asked", again=False)


def throttled(detail: str) -> FetchError:
    """The fate of a row that has waited, or would have to wait, beyond its patience."""
    return FetchError(Failure.THROTTLED, detail, again=False)
