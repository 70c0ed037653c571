import asyncio
import time

import pytest
from yarl import URL

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.robots import MAX_CRAWL_DELAY, Robots, Rules, parsed
from pairsift.stages.fates import Failure

SITE = "https://a.example"


def verdicts(rules: Rules, *paths: str, agent: str = "pairsift") -> list[str | None]:
    found: list[str | None] = []
    for path in paths:
        try:
            rules.check(URL(SITE + path), agent)
        except FetchError as error:
            found.append(error.failure.value)
        else:
            found.append(None)
    return found


def test_the_longest_rule_decides() -> None:
    rules = parsed("User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.gif$", "pairsift", content_usage=True)
    assert verdicts(rules, "/a/x", "/a/b", "/c", "/c.gif", "/c.gif?x") == [
        "robots_disallowed",
        None,
        None,
        "robots_disallowed",
        None,
    ]


def test_statements_of_usage_follow_groups_and_paths() -> None:
    text = (
        "User-agent: otherbot\nContent-Usage: train-ai=n\n\n"
        "User-agent: *\nAllow: /\nDisallow: /no\nContent-Usage: train-ai=n, search=y\ncontent-usage: /yes/ train-ai=y # fine\n"
    )
    rules = parsed(text, "pairsift", content_usage=True)
    assert verdicts(rules, "/a", "/yes/a", "/no/a") == ["content_usage", None, "robots_disallowed"]
    assert verdicts(parsed(text, "pairsift", content_usage=False), "/a", "/yes/a") == [None, None]
    assert verdicts(parsed("User-agent: otherbot\nContent-Usage: train-ai=n", "pairsift", content_usage=True), "/a") == [None]


def test_nobody_asks_for_more_than_half_a_minute() -> None:
    assert parsed("User-agent: *\nCrawl-delay: 2.5", "pairsift", content_usage=True).crawl_delay == 2.5
    assert parsed("User-agent: *\nCrawl-delay: 86400", "pairsift", content_usage=True).crawl_delay == MAX_CRAWL_DELAY
    assert parsed("User-agent: *\nCrawl-delay: soon", "pairsift", content_usage=True).crawl_delay == 0


@pytest.mark.parametrize(
    "text", ["", "\ufeffUser-agent: *\nDisallow:", "<html>no such page</html>", "\x00\xff: *", "a" * 100_000]
)
def test_what_says_nothing_allows_everything(text: str) -> None:
    assert verdicts(parsed(text, "pairsift", content_usage=True), "/", "/a") == [None, None]


def test_groups_are_for_whole_names() -> None:
    text = "User-agent: pair\nUser-Agent pairsift-other\nDisallow: /a\n\nuseragent: PairSift*\nDisallow: /b\n\n"
    text += "User-agent: *\nDisallow: /"
    assert verdicts(parsed(text, "pairsift", content_usage=True), "/a", "/b") == [None, "robots_disallowed"]
    assert verdicts(parsed(text, "corpus", content_usage=True), "/a") == ["robots_disallowed"]
    for copied in ("PairSift/1.0", "pairsift (+https://a.example)"):  # from the log of a host that we have asked
        assert verdicts(parsed(f"User-agent: {copied}\nDisallow: /", "pairsift", content_usage=True), "/") == [
            "robots_disallowed"
        ]
    alone = "User-agent: other\nUser-agent: *\nDisallow: /a\nUser-agent: another\nDisallow: /b"
    assert verdicts(parsed(alone, "pairsift", content_usage=True), "/a", "/b") == ["robots_disallowed", None]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"User-agent: b{i}\n" for i in range(10_000)) + "Disallow: /a*b*c\n" * 20_000,
        "".join(f"user agent b{i}\n" for i in range(10_000)) + "Disallow: /a*b*c\n" * 20_000,
        "User-agent: *\nDisallow: /" + "*a" * 200_000,
        "User-agent: *\n" + "Disallow: /*x*y*z$\n" * 20_000,
    ],
)
def test_hostile_files_cost_little(text: str) -> None:
    began = time.process_time()
    rules = parsed(text, "pairsift", content_usage=True)
    verdicts(rules, "/" + "a" * 2000 + "?" + "xy" * 1000)
    assert time.process_time() - began < 3


def test_one_row_that_is_given_up_leaves_the_answer_to_the_others() -> None:
    asked: list[str] = []

    async def get(url: URL) -> tuple[int, bytes]:
        asked.append(str(url))
        await asyncio.sleep(0.05)
        return 200, b"User-agent: *\nDisallow: /\n"

    async def work() -> list[str | None]:
        robots = Robots(get, "pairsift", content_usage=True)
        first = asyncio.ensure_future(robots.rules(URL(f"{SITE}/1")))
        await asyncio.sleep(0.01)
        others = [asyncio.ensure_future(robots.rules(URL(f"{SITE}/{i}"))) for i in range(50)]
        first.cancel()
        found = await asyncio.gather(*others)
        await robots.rules(URL("http://a.example/1"))  # another scheme is another origin
        await robots.rules(URL("https://a.example:8443/1"))
        return verdicts(found[0], "/a")

    assert asyncio.run(work()) == ["robots_disallowed"]
    assert asked == [f"{SITE}/robots.txt", "http://a.example/robots.txt", "https://a.example:8443/robots.txt"]


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    asked: list[str] = []

    async def get(url: URL) -> tuple[int, bytes]:
        asked.append(url.host or "")
        if url.host == "none.example":
            raise FetchError(Failure.TIMEOUT)
        return 200, b"User-agent: *\n" + b"# nothing\n" * 40_000

    async def work() -> None:
        robots = Robots(get, "pairsift", content_usage=True)
        with pytest.raises(FetchError):
            await robots.rules(URL("http://none.example/"))
        for i in [*range(12), 11, 10, 9, 0]:
            await robots.rules(URL(f"http://{i}.example/"))

    asyncio.run(work())
    assert asked == ["none.example", *(f"{i}.example" for i in [*range(12), 0])]


def test_a_fault_is_remembered_and_told_to_all() -> None:
    asked = 0

    async def get(_: URL) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        raise FetchError(Failure.DNS_ERROR, "no such host")

    async def work() -> None:
        robots = Robots(get, "pairsift", content_usage=True)
        for _ in range(3):
            with pytest.raises(FetchError, match=r"robots\.txt: no such host") as caught:
                await robots.rules(URL(f"{SITE}/1"))
            assert (caught.value.failure, caught.value.again) == (Failure.DNS_ERROR, False)

    asyncio.run(work())
    assert asked == 1
