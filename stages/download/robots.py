"""robots.txt (RFC 9309): asked once per origin and worker, and before anything else is asked there.

Which rule holds for a URL is protego's affair. What stands here is how the file is come by, and what its absence means:

- 2xx: its first 500 KiB are the rules. Redirects are followed, five at most, with the checks that every connection has.
- 4xx but 429, and a redirect too many: there are no rules (RFC 9309, 2.3.1.3).
- 5xx, 429, no answer: the RFC takes everything for disallowed while that lasts. The rows get the failure that robots.txt
  had, which says more than "disallowed" and is transient where that is; after five minutes the host is asked again.

Content-Usage lines (draft-ietf-aipref-attach-05) follow the groups and paths of Allow and Disallow, so protego matches them as
such: a refusal as Disallow, any other statement as Allow.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from protego import Protego
from yarl import URL

from pairsift.stages.download.consent import training_refused
from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5: the least that a crawler must read; more is not read
SECONDS = 10.0  # for one attempt at robots.txt, redirects included
MAX_REDIRECTS = 5
MAX_CRAWL_DELAY = 30.0  # seconds; who asks for more gets this
_ASK_AGAIN_SECONDS = 300.0  # after robots.txt could not be had
_ASK_AFRESH_SECONDS = 86_400.0  # RFC 9309, 2.4: no cached copy for longer than a day
_PARSED_AT_ONCE = 20_000  # characters; longer files are parsed in another thread
# Of the files whose rules are kept; parsed they take 20 to 80 bytes a character. Who is forgotten is asked again.
_MAX_CHARACTERS = 2_000_000
_LEAST_CHARACTERS = 50  # that an origin counts for
_CONTENT_USAGE = re.compile(r"^[ \t]*content-usage[ \t]*:[ \t]*(/[^ \t#]*[ \t]+)?([^#\r\n]*)", re.IGNORECASE)
_USER_AGENT = re.compile(r"^\s*user(?:-|\s+)?agent(?:\s*:|\s)([^#]*)", re.IGNORECASE)  # as generously as protego reads it
_PRODUCT_ENDS = re.compile(r"[/\s]")
_STRANGER = "somebody-else"
_ALLOW_OR_DISALLOW = re.compile(r"^[ \t]*(?:dis)?allow[ \t]*:", re.IGNORECASE)

Get = Callable[[URL], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True)
class Rules:
    """What one origin's robots.txt says to us. `usage` holds its Content-Usage lines as if they were about access."""

    access: Protego | None = None
    usage: Protego | None = None
    crawl_delay: float = 0.0  # seconds
    characters: int = 0  # of the file

    def check(self, url: URL, agent: str) -> None:
        """Raises FetchError: ROBOTS_DISALLOWED or CONTENT_USAGE."""
        if self.access is not None and not self.access.can_fetch(str(url), agent):
            raise FetchError(Failure.ROBOTS_DISALLOWED, f"{url.origin()}/robots.txt")
        if self.usage is not None and not self.usage.can_fetch(str(url), agent):
            raise FetchError(Failure.CONTENT_USAGE, f"{url.origin()}/robots.txt")


NO_RULES = Rules()


class Robots:
    """The rules of every origin that one worker asks. Lives on the network loop."""

    def __init__(self, get: Get, agent: str, *, content_usage: bool) -> None:
        """`get` gives status and beginning of a URL's answer, or raises FetchError. `agent`: our product names, with spaces."""
        self._get = get
        self._agent = agent
        self._content_usage = content_usage
        self._held = 0  # characters, as `_size` counts them
        self._asked: OrderedDict[str, tuple[float, asyncio.Future[Rules]]] = OrderedDict()

    async def rules(self, url: URL) -> Rules:
        """The rules for a URL's origin, asked for at most once however many rows wait for them.

        Raises:
            FetchError: robots.txt could not be had, for this reason.
        """
        origin = f"{url.scheme}://{url.host_port_subcomponent}"  # with the brackets of IPv6, without user and password
        now = asyncio.get_running_loop().time()
        until, asked = self._asked.get(origin, (0.0, None))
        if asked is None or until < now or asked.cancelled():
            asked = asyncio.ensure_future(self._ask(origin))
            asked.add_done_callback(lambda done: self._answered(origin, done))
            self._held -= _size(self._asked.pop(origin, (0.0, None))[1])
            self._asked[origin] = (now + _ASK_AFRESH_SECONDS, asked)
        else:
            self._asked.move_to_end(origin)
            if asked.done():
                return asked.result()
        return await asyncio.shield(asked)  # a row that is given up does not take the others' answer with it

    def check(self, rules: Rules, url: URL) -> None:
        """Raises FetchError where the rules keep us from the URL."""
        rules.check(url, self._agent)

    def _answered(self, origin: str, asked: "asyncio.Future[Rules]") -> None:
        failed = not asked.cancelled() and asked.exception() is not None  # looking at it, lest asyncio tells that nobody did
        if self._asked.get(origin, (0.0, None))[1] is not asked:
            return
        if failed:
            self._asked[origin] = (asyncio.get_running_loop().time() + _ASK_AGAIN_SECONDS, asked)
        self._held += _size(asked)
        while self._held > _MAX_CHARACTERS and len(self._asked) > 1:
            self._held -= _size(self._asked.popitem(last=False)[1][1])

    async def _ask(self, origin: str) -> Rules:
        try:
            status, body = await self._get(URL(f"{origin}/robots.txt"))
        except FetchError as error:
            raise FetchError(error.failure, f"robots.txt: {error}", again=False) from error
        if status == 429 or status >= 500:
            failure = {429: Failure.HTTP_429, 503: Failure.HTTP_503}.get(status, Failure.HTTP_5XX)
            raise FetchError(failure, f"robots.txt: {status}", again=False)
        if not 200 <= status < 300:
            return NO_RULES
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        if len(text) <= _PARSED_AT_ONCE:
            return parsed(text, self._agent, content_usage=self._content_usage)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: parsed(text, self._agent, content_usage=self._content_usage))


def parsed(text: str, agent: str, *, content_usage: bool) -> Rules:
    """The rules of a robots.txt for an agent: product names in lower case, with spaces between them."""
    lines = [_without_strangers(line, agent.split()) for line in text.splitlines()]
    access = Protego.parse("\n".join(lines))
    usage = None
    if content_usage and "content-usage" in text.lower():
        usage = Protego.parse("\n".join(_as_access(line) for line in lines))
    return Rules(access, usage, min(MAX_CRAWL_DELAY, access.crawl_delay(agent) or 0.0), len(text))


def _size(asked: "asyncio.Future[Rules] | None") -> int:
    """What an origin's rules count for; nothing until they are there."""
    if asked is None or not asked.done():
        return 0
    known = not asked.cancelled() and asked.exception() is None
    return _LEAST_CHARACTERS + (asked.result().characters if known else 0)


def _without_strangers(line: str, agents: Sequence[str]) -> str:
    """A line, with one name for all groups that are not for us: protego keeps the rules of a group once per name, which would
    be gigabytes where a hostile file has thousands of each."""
    named = _USER_AGENT.match(line)
    if named is None:
        return line
    product = _PRODUCT_ENDS.split(named[1].strip().lower(), maxsplit=1)[0]  # without the version and comment of User-Agent
    known = product if product == "*" else product.replace("*", "")
    return f"User-agent: {known if known in (*agents, '*') else _STRANGER}"


def _as_access(line: str) -> str:
    """A line of robots.txt with statements of usage in the place of those of access."""
    if _ALLOW_OR_DISALLOW.match(line):
        return ""
    statement = _CONTENT_USAGE.match(line)
    if statement is None:
        return line
    return f"{'Disallow' if training_refused(statement[2]) else 'Allow'}: {(statement[1] or '/').strip()}"
