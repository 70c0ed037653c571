"""What is known of one host, what it has brought on itself, and how long rows wait for it."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from pairsift.stages.download.errors import TIMEOUTS, FetchError
from pairsift.stages.fates import Failure

DOWN_AFTER = 5  # attempts in a row that found nobody there
FIRST_PROBE_SECONDS = 30.0  # how long a host that is down is left alone; doubles with each probe that fails
LAST_PROBE_SECONDS = 600.0
SLOW_AFTER = 3  # other faults in a row
FIRST_PACE_SECONDS = 0.5  # between two starts, once a host is slowed
LAST_PACE_SECONDS = 16.0
_RECOVERY = 0.7  # what is left of the pace after each answer
_FORGETTABLE_PACE = 0.1  # seconds

NOBODY_THERE = (Failure.DNS_ERROR, Failure.CONNECT_ERROR, *TIMEOUTS)
_TOO_MUCH = (
    Failure.HTTP_429,
    Failure.HTTP_503,
    Failure.HTTP_5XX,
    Failure.CONNECTION_LOST,
    Failure.CONNECTION_RESET,
    Failure.INCOMPLETE_BODY,
    Failure.TOO_SLOW,
    *TIMEOUTS,
)


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
class Waiter:
    """A row in a host's queue."""

    patience: Patience
    turn: "asyncio.Future[None]"


@dataclass(eq=False, slots=True)
class Host:
    """What is known of one host. Times are on the loop's clock."""

    name: str
    most: int  # requests at a time, when it is well
    interval: float  # seconds between two starts, when it is well
    first_probe: float  # seconds that it is left alone when it is first found down
    width: float = 0.0  # requests at a time, now
    probe_after: float = 0.0  # seconds from being found down, or from the last probe
    active: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)
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

    def __post_init__(self) -> None:
        self.width, self.probe_after = self.most, self.first_probe

    @property
    def idle(self) -> bool:
        return not self.active and not self.waiting

    # starting

    @property
    def earliest(self) -> float:
        """When the next request may start."""
        return max(self.next_start, self.asked_until)

    def may_start(self, now: float) -> bool:
        return self.active < int(self.width) and self.earliest <= now

    def start(self, now: float) -> None:
        self.active += 1
        self.next_start = now + max(self.interval, self.pace, self.crawl_delay)

    def refuse_if_down(self, now: float) -> None:
        """Raises FetchError, but for the one that is let through as a probe."""
        if self.down is None:
            return
        if now < self.down_until or self.active:
            raise _not_asked(self.down)
        self.probing, self.down_until = True, now + self.probe_after  # whoever comes meanwhile is refused

    def thin_out(self, waiting: Iterable[Waiter], ahead: int, now: float) -> deque[Waiter]:
        """Refuse those of `waiting` (`ahead` others precede them) who would wait longer for the host's own wishes than they
        have patience; return the rest.

        Retry-After and Crawl-delay tell how long that is for each place in the queue. A pace that we took by ourselves does
        not, since it may be over soon: there, rows are refused once their patience has run out.
        """
        gap = self.crawl_delay if self.crawl_delay > self.interval else 0.0
        start = max(self.asked_until, self.next_start if gap or self.pace else 0.0, now)
        kept: deque[Waiter] = deque()
        for waiter in waiting:
            if waiter.turn.done():
                continue
            moment = start + gap * (ahead + len(kept))
            if waiter.patience.allows(moment, now):
                kept.append(waiter)
            else:
                asked = gap or self.asked_until >= start
                why = "asks for" if asked else "is slowed down after its trouble: the next turn is in"
                waiter.turn.set_exception(throttled(f"{self.name} {why} {max(1, round(moment - now))} s"))
        return kept

    # learning

    def learn(self, began: float, now: float, error: FetchError | None) -> None:
        """What a request that began then has come to: an answer, or a failure."""
        failure = None if error is None else error.failure
        if failure in NOBODY_THERE:
            self.absences += 1
            if self.absences >= DOWN_AFTER:
                assert failure is not None
                self._give_up(failure, now)
                return
        else:
            self.absences = 0
            self.down, self.probe_after = None, self.first_probe
        if error is not None and error.retry_after is not None:
            self.asked_until = max(self.asked_until, now + error.retry_after)
        if error is not None and failure in _TOO_MUCH:
            self.faults += 1
            # Requests that were under way when the host was slowed tell nothing about the slower pace.
            if began >= self.slowed_at and (error.status in (429, 503) or self.faults >= SLOW_AFTER):
                self._slow_down(now)
        elif failure not in NOBODY_THERE:
            self._recover()
        if self.waiting and (self.asked_until > now or self.pace):
            self.waiting = self.thin_out(self.waiting, 0, now)

    def _slow_down(self, now: float) -> None:
        self.slowed_at = now
        self.width = max(1.0, self.width / 2)
        self.pace = min(LAST_PACE_SECONDS, max(FIRST_PACE_SECONDS, 2 * self.pace))
        self.next_start = max(self.next_start, now + self.pace * random.uniform(0.5, 1.0))

    def _recover(self) -> None:
        self.faults = 0
        self.width = min(float(self.most), self.width + 0.5)
        self.pace *= _RECOVERY
        if 0.0 < self.pace < _FORGETTABLE_PACE:
            self.pace = 0.0
            for waiter in self.waiting:
                waiter.patience.ends = None

    def _give_up(self, failure: Failure, now: float) -> None:
        if self.down is not None:
            if not self.probing:  # it was under way already when the others found nobody
                return
            self.probe_after = min(LAST_PROBE_SECONDS, 2 * self.probe_after)
        self.down, self.down_until, self.probing = failure, now + self.probe_after, False
        for waiter in self.waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(_not_asked(failure))
        self.waiting.clear()


def _not_asked(failure: Failure) -> FetchError:
    return FetchError(failure, "host is down: not asked", again=False)


def throttled(detail: str) -> FetchError:
    """The fate of a row that has waited, or would have to wait, beyond its patience."""
    return FetchError(Failure.THROTTLED, detail, again=False)
