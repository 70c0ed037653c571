"""How hosts are treated: the parameters, and what each row asks before it asks a host for anything.

Before each hop of a row, redirects included: is there somebody to complain to? Is the URL on a block list? Does robots.txt
allow it? Is it the row's turn at this host, within the bandwidth, and does the worker have a connection for it?
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Annotated

from multidict import CIMultiDictProxy
from pydantic import BaseModel, ConfigDict, Field, field_validator
from yarl import URL

from pairsift.stages.base import OPERATIONAL
from pairsift.stages.download.bandwidth import Bandwidth
from pairsift.stages.download.blocklists import BlocklistFiles, Blocklists
from pairsift.stages.download.body import Visit
from pairsift.stages.download.consent import Consent
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.host import HostLimits, Patience, throttled
from pairsift.stages.download.host_names import is_loopback
from pairsift.stages.download.hosts import Hosts, Turn
from pairsift.stages.download.proxy import TargetCheck
from pairsift.stages.download.robots import MAX_BYTES, Robots, Rules
from pairsift.stages.download.slots import SLOT_BYTES, Share, Slots
from pairsift.stages.fates import Failure

_HEADER_TEXT = r"^[\x20-\x27\x2a-\x7e]+$"  # printable ASCII without parentheses, which delimit comments in User-Agent
_PRODUCT = "pairsift"
CONTACT_LINE = "contact: https://… (a page, or an e-mail address, by which you can be reached: it stands in User-Agent)"


class MannersOptions(BaseModel):
    """The parameters of `download` that concern the hosts and their wishes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contact: Annotated[str | None, OPERATIONAL] = Field(
        None,
        pattern=_HEADER_TEXT,
        description="URL or e-mail address of whoever runs this; stands in User-Agent; required but for loopback",
    )
    user_agent_token: str | None = Field(
        None,
        pattern=_HEADER_TEXT,
        description="the product name that stands first in User-Agent, and that robots.txt and X-Robots-Tag may call us by "
        "beside pairsift",
    )
    per_host: Annotated[HostLimits, OPERATIONAL] = Field(
        HostLimits(),
        description="concurrency: requests at a time; rate: requests per second, or null; for the whole run, divided among its "
        "workers; loopback: whether loopback is limited, too",
    )
    patience: Annotated[float, OPERATIONAL] = Field(
        30,
        ge=0,
        description="seconds that a row waits for hosts that ask for time (Retry-After, Crawl-delay, slowed after 429, 503 or "
        "faults), over all its attempts; throttled",
    )
    max_bandwidth: Annotated[float | None, OPERATIONAL] = Field(
        None, gt=0, description="bytes of bodies per second, on average over the whole run; null: as many as come"
    )
    proxy: Annotated[str | None, OPERATIONAL] = Field(
        None,
        pattern=r"^https?://[^\s/]+/?$",
        description="URL of a proxy for all requests; null: none, whatever the environment says",
    )
    robots: bool = Field(True, description="ask each host's robots.txt first; robots_disallowed")
    disallowed_header_directives: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex"),
        description="directives of X-Robots-Tag that keep an image out; none: the header is not looked at; x_robots_tag",
    )
    tdm_reservation: bool = Field(True, description="keep to the header tdm-reservation (TDMRep); tdm_reservation")
    content_usage: bool = Field(
        True, description="keep to Content-Usage (AIPREF) in headers, and in robots.txt if that is asked; content_usage"
    )
    blocklists: Annotated[BlocklistFiles, OPERATIONAL] = Field(  # their contents are part of the stage's identity
        BlocklistFiles(),
        description="files, one entry per line: domains; urls (or their md5, sha1, sha256); md5, sha1, sha256 of bodies; "
        "blocked_domain, blocked_url, blocked_content",
    )

    @field_validator("proxy")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        URL(value or "")  # raises ValueError
        return value

    def user_agent(self) -> str:
        """Says honestly who asks: `token pairsift/version (+contact)`."""
        product = f"{_PRODUCT}/{installed_version('pairsift')}"
        if self.user_agent_token:
            product = f"{self.user_agent_token} {product}"
        return f"{product} (+{self.contact})" if self.contact else product

    def agents(self) -> tuple[str, ...]:
        """The product names by which sites may call us, lower case."""
        token = (self.user_agent_token or "").split("/")[0].strip().lower()
        return (token, _PRODUCT) if token else (_PRODUCT,)


@dataclass(frozen=True)
class Surroundings:
    """What `Manners` works with that is no matter of manners."""

    fetcher: Fetcher  # with the limits of robots.txt
    connections: int
    inflight_bytes: int
    workers: int  # of the whole run, this one included
    retries: int
    timeout: float  # seconds
    allow_private_addresses: bool | Sequence[str]
    blocklists: Blocklists


class Manners:
    """One worker's dealings with hosts. Made on the network loop, and lives there."""

    def __init__(self, options: MannersOptions, around: Surroundings) -> None:
        self.patience = options.patience
        self.around = around
        self.hosts = Hosts(options.per_host.share(around.workers))
        self.slots = Slots(around.connections, around.inflight_bytes)
        self.bandwidth = None if options.max_bandwidth is None else Bandwidth(options.max_bandwidth / around.workers)
        self.consent = Consent(
            options.agents(),
            options.disallowed_header_directives,
            tdm=options.tdm_reservation,
            content_usage=options.content_usage,
        )
        self._contact = options.contact
        self._targets = TargetCheck(around.allow_private_addresses) if options.proxy else None
        agent = " ".join(options.agents())
        self._robots = Robots(self._get_robots, agent, content_usage=options.content_usage) if options.robots else None

    def visit(self, text: str | None) -> "PoliteVisit":
        """For one row; `text` is its URL as it is listed."""
        return PoliteVisit(self, text)

    async def permitted(self, url: URL, text: str | None) -> None:
        """Whatever has to be true of a URL before its host is asked for it.

        Raises:
            FetchError: it may not be asked for.
        """
        host = url.raw_host or ""
        if self._contact is None and not is_loopback(host):
            raise FetchError(Failure.NO_CONTACT, f"{host} is not loopback. Add to download: {CONTACT_LINE}")
        self.around.blocklists.check_url(url, text)
        if self._targets is not None:
            await self._targets.check(url, self.around.timeout)
        if self._robots is not None:
            rules: Rules = await self._robots.rules(url)
            self._robots.check(rules, url)
            if rules.crawl_delay:
                self.hosts.set_crawl_delay(host, rules.crawl_delay * self.around.workers)

    async def _get_robots(self, url: URL) -> tuple[int, bytes]:
        for attempt in range(self.around.retries + 1):
            turn = await self.hosts.enter(url.raw_host or "", Patience(self.patience))
            try:
                answer = await self._robots_file(url)
            except FetchError as error:
                turn.leave(error)
                if not error.again or attempt == self.around.retries:
                    raise
            else:
                turn.leave()
                return answer
            finally:
                turn.leave(answered=False)
            await asyncio.sleep(2.0**attempt / 2)
        raise AssertionError("the last attempt returns or raises")

    async def _robots_file(self, url: URL) -> tuple[int, bytes]:
        share = await self.slots.acquire(size=MAX_BYTES + SLOT_BYTES)  # rows wait for it, so it waits for none of them
        try:
            return await self.around.fetcher.beginning(url, MAX_BYTES)
        finally:
            self.slots.release(share)


class PoliteVisit(Visit):
    """One row on its way through one or more hosts. Holds a slot, and the bytes of its body, from `enter` until it enters
    elsewhere, or is closed: a body that waits for its decoder keeps its slot from being used for the next body."""

    def __init__(self, manners: Manners, text: str | None) -> None:
        self._manners = manners
        self._text = text
        self._patience = Patience(manners.patience)
        self._turn: Turn | None = None
        self._paid: float | None = None
        self._age = manners.slots.age()
        self._share: Share | None = None

    async def enter(self, url: URL) -> None:
        """Ask for permission, then wait: for the host, for bandwidth, for a connection."""
        self.close()
        await self._manners.permitted(url, self._text)
        self._turn = await self._manners.hosts.enter(url.raw_host or "", self._patience)
        try:
            if self._manners.bandwidth is not None:
                self.received = 0
                self._paid = await self._manners.bandwidth.enter()
            self._share = await self._manners.slots.acquire(self._age)
        except BaseException:
            self.close()
            raise

    def leave(self, error: FetchError | None = None) -> None:
        """The host's turn is over; the connection is kept for the decoding."""
        if self._turn is not None:
            self._turn.leave(error)
            self._turn = None
        if self._paid is not None and self._manners.bandwidth is not None:
            self._manners.bandwidth.leave(self._paid, self.received)
            self._paid = None

    def check_headers(self, headers: CIMultiDictProxy[str]) -> None:
        self._manners.consent.check(headers)

    def grow(self, size: int) -> bool:
        assert self._share is not None
        return self._manners.slots.grow(self._share, size)

    async def wait_to_grow(self, size: int) -> None:
        assert self._share is not None
        await self._manners.slots.wait_to_grow(self._share, size)

    def arrived(self, size: int) -> None:
        """All of the body is there, and has so many bytes. They are held until `close`."""
        assert self._share is not None
        self._manners.slots.shrink(self._share, size)

    def close(self) -> None:
        """Give back whatever is held."""
        if self._turn is not None:
            self._turn.leave(answered=False)
            self._turn = None
        self.leave()
        share, self._share = self._share, None
        if share is not None:
            self._manners.slots.release(share)

    async def wait(self, error: FetchError, backoff: float) -> None:
        """Before the next attempt: the back-off, or what the host asks for if that is longer. Raises FetchError(THROTTLED)."""
        seconds = max(backoff, error.retry_after or 0.0)
        now = asyncio.get_running_loop().time()
        if error.retry_after is not None and not self._patience.allows(now + error.retry_after, now):
            raise throttled(f"{error}, and Retry-After asks for {error.retry_after:.0f} s") from error
        await asyncio.sleep(seconds)
