"""What hosts see of us. A server on several loopback addresses stands for several hosts; `loopback: true` limits them."""

import asyncio
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from pairsift.stages.base import ConfigError
from pairsift.stages.download import Download
from pairsift.stages.download.host import DOWN_AFTER

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
LIMITED = {"loopback": True}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def on(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


class Town:
    """Several hosts, one server: by path `answers` says what is answered, else it is the photograph after `delay`."""

    def __init__(self, photo: bytes) -> None:
        self.photo = photo
        self.port = 0
        self.delay = 0.0  # seconds
        self.robots: dict[str, str] = {}  # by host
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[float, str, str]] = []  # when, host, path; robots.txt included
        self.under_way: Counter[str] = Counter()
        self.most: dict[str, int] = defaultdict(int)

    def url(self, host: int, path: str) -> str:
        return f"http://{HOSTS[host]}:{self.port}{path}"

    def paths(self, host: int | None = None) -> list[str]:
        return [path for _, name, path in self.asked if host is None or name == HOSTS[host]]

    def images(self) -> list[str]:
        return [path for path in self.paths() if path != "/robots.txt"]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        self.asked.append((time.monotonic(), host, request.path))
        if request.path in self.answers:
            return await self.answers[request.path](request)
        if request.path == "/robots.txt":
            return web.Response(text=self.robots[host]) if host in self.robots else web.Response(status=404)
        self.under_way[host] += 1
        self.most[host] = max(self.most[host], self.under_way[host])
        await asyncio.sleep(self.delay)
        self.under_way[host] -= 1
        return web.Response(body=self.photo)

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{anything:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        for host in HOSTS:
            await web.TCPSite(runner, host, self.port).start()
            self.port = runner.addresses[0][1]
        return runner


@pytest.fixture
def town(photo: bytes) -> Iterator[Town]:
    found = Town(photo)
    with background_loop() as loop:
        runner = on(loop, found.start())
        yield found
        on(loop, runner.cleanup())


def failures(table: pa.Table) -> list[str | None]:
    return list(table.column("failure").to_pylist())


def always(status: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def at_first(status: int, photo: bytes, **headers: str) -> Answer:
    """The status once, then the photograph."""
    calls = itertools.count()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await always(status, **headers)(request) if next(calls) == 0 else web.Response(body=photo)

    return answer


def drip(**headers: str) -> Answer:
    """A body that nobody should begin to read: it takes a minute."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={name.replace("_", "-"): value for name, value in headers.items()})
        await response.prepare(request)
        for _ in range(600):
            await response.write(bytes(1000))
            await asyncio.sleep(0.1)
        return response

    return answer


# Limits


def test_a_host_gets_so_many_requests_at_a_time(town: Town, download: Any) -> None:
    town.delay = 0.03
    urls = [town.url(host, f"/{i}") for i in range(15) for host in (0, 1)]
    assert failures(download(urls, per_host={"concurrency": 3, **LIMITED})) == [None] * 30
    assert town.most == {HOSTS[0]: 3, HOSTS[1]: 3}


def test_loopback_is_exempt_unless_it_is_asked_for(town: Town, download: Any) -> None:
    town.delay = 0.1
    assert failures(download([town.url(0, f"/{i}") for i in range(20)], per_host={"concurrency": 1})) == [None] * 20
    assert town.most[HOSTS[0]] > 5


def test_the_workers_of_a_run_share_what_a_host_gets(town: Town, download: Any) -> None:
    town.delay = 0.03
    urls = [town.url(0, f"/{i}") for i in range(10)]
    download(urls, per_host={"concurrency": 8, **LIMITED}, resources={"workers": 4})
    assert town.most[HOSTS[0]] == 2


def test_requests_per_second(town: Town, download: Any) -> None:
    download([town.url(0, f"/{i}") for i in range(8)], per_host={"rate": 20, **LIMITED})
    starts = sorted(when for when, _, _ in town.asked)
    assert len(starts) == 8
    assert starts[-1] - starts[0] >= 7 / 20 - 0.03


def test_a_slow_host_does_not_hold_up_the_others(town: Town, download: Any) -> None:
    """Its rows wait without a connection: with two of them, the other host's rows pass."""
    urls = [town.url(0, f"/{i}") for i in range(6)] + [town.url(1, f"/{i}") for i in range(6)]
    download(urls, connections=2, per_host={"rate": 10, **LIMITED}, retries=0)
    last = {host: max(when for when, name, _ in town.asked if name == host) for host in HOSTS[:2]}
    assert abs(last[HOSTS[0]] - last[HOSTS[1]]) < 0.25


def test_hosts_are_interleaved_and_rows_stay_in_order(town: Town, download: Any) -> None:
    town.delay = 0.01
    urls = [town.url(host, f"/{host}/{i}") for host in range(3) for i in range(8)]
    table = download([*urls, None], connections=1)
    assert failures(table) == [None] * 24 + ["invalid_url"]
    assert {path.split("/")[1] for path in town.paths()[:6]} == {"0", "1", "2"}


def test_bandwidth_is_capped_on_average(town: Town, download: Any) -> None:
    cap, bodies = 1_000_000, 12
    began = time.monotonic()
    assert failures(download([town.url(i % 3, f"/{i}") for i in range(bodies)], max_bandwidth=cap)) == [None] * bodies
    seconds = time.monotonic() - began
    assert bodies * len(town.photo) / cap - 1.3 <= seconds < 5  # one second may be saved up


# Hosts in trouble


def test_retry_after_is_kept_by_every_row_of_the_host(town: Town, download: Any) -> None:
    town.answers["/busy"] = at_first(503, town.photo, Retry_After="1")
    urls = [town.url(0, "/busy"), *(town.url(0, f"/{i}") for i in range(3))]
    table = download(urls, retries=1, per_host={"concurrency": 1, **LIMITED})
    assert failures(table) == [None] * 4
    busy = next(when for when, _, path in town.asked if path == "/busy")
    assert sorted(when for when, _, _ in town.asked)[1] - busy >= 0.99


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize("wait", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_host_that_asks_for_too_much_time(town: Town, download: Any, wait: str, loopback: bool) -> None:
    town.answers["/busy"] = always(429, Retry_After=wait)
    began = time.monotonic()
    limits = {"concurrency": 1, "loopback": loopback}
    table = download([town.url(0, "/busy")] * 10, retries=3, patience=1, per_host=limits)
    assert failures(table) == ["throttled"] * 10
    assert time.monotonic() - began < 2
    assert len(town.asked) == (1 if loopback else 10)


def test_a_host_that_goes_on_refusing_cannot_hold_up_a_run(town: Town, download: Any) -> None:
    town.answers["/busy"] = always(429)
    began = time.monotonic()
    table = download([town.url(0, "/busy")] * 40, retries=1, patience=1.5, per_host=LIMITED)
    assert set(failures(table)) <= {"http_429", "throttled"}
    assert time.monotonic() - began < 6
    assert len(town.asked) < 30


def test_a_host_that_is_down_is_not_asked_for_every_row(download: Any) -> None:
    connections = 0

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    with background_loop() as loop:
        server = on(loop, asyncio.start_server(never_answer, HOSTS[0], 0))
        url = f"http://{HOSTS[0]}:{server.sockets[0].getsockname()[1]}/"
        table = download([url] * 100, timeout=0.2, per_host={"concurrency": 2, **LIMITED})
        server.close()
        on(loop, asyncio.sleep(0.1))
    assert failures(table) == ["no_answer"] * 100
    assert table.column("failure_detail").to_pylist().count("host is down: not asked") >= 100 - DOWN_AFTER - 1
    assert connections <= DOWN_AFTER + 1


# robots.txt


def test_robots_txt_is_asked_once_per_host_and_kept(town: Town, download: Any) -> None:
    town.robots[HOSTS[0]] = "User-agent: *\nDisallow: /private/\n"
    urls = [town.url(host, f"/{part}/{i}") for i in range(25) for host in (0, 1) for part in ("private", "public")]
    table = download(urls, robots=True)
    assert town.paths().count("/robots.txt") == 2
    wanted = ["robots_disallowed" if HOSTS[0] in url and "/private/" in url else None for url in urls]
    assert failures(table) == wanted
    assert not [path for path in town.paths(0) if path.startswith("/private/")]
    assert len(town.paths(1)) == 51


def test_robots_txt_calls_us_by_our_names(town: Town, download: Any) -> None:
    town.robots[HOSTS[0]] = "User-agent: pairsift\nDisallow: /a\n\nUser-agent: our-corpus\nDisallow: /b\n"
    town.robots[HOSTS[0]] += "\nUser-agent: *\nDisallow: /\n"
    urls = [town.url(0, path) for path in ("/a", "/b", "/c")]
    assert failures(download(urls, robots=True)) == ["robots_disallowed", None, None]
    assert failures(download(urls, robots=True, user_agent_token="Our-Corpus/2.0")) == [None, "robots_disallowed", None]


def test_redirects_ask_the_robots_txt_of_where_they_lead(town: Town, download: Any) -> None:
    town.answers["/away"] = always(302, Location=town.url(1, "/secret"))
    town.robots[HOSTS[1]] = "User-agent: *\nDisallow: /secret\n"
    assert failures(download([town.url(0, "/away")], robots=True)) == ["robots_disallowed"]
    assert "/secret" not in town.paths()


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (always(403), None),
        (always(404), None),
        (always(301, Location="/robots.txt"), None),  # round and round: as if there were none
        (always(503), "http_503"),
        (always(429), "http_429"),
        (drip(), "timeout"),
    ],
)
def test_a_robots_txt_that_cannot_be_had(town: Town, download: Any, answer: Answer, failure: str | None) -> None:
    town.answers["/robots.txt"] = answer
    table = download([town.url(0, f"/{i}") for i in range(5)], robots=True, timeout=0.5)
    assert failures(table) == [failure] * 5
    if failure:
        assert town.images() == []
        assert set(table.column("failure_detail").to_pylist()).pop().startswith("robots.txt: ")


def test_a_robots_txt_is_asked_again_if_its_fault_may_pass(town: Town, download: Any) -> None:
    calls = itertools.count()

    async def second_time(request: web.Request) -> web.StreamResponse:
        if next(calls) == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="User-agent: *\nDisallow: /a\n")

    town.answers["/robots.txt"] = second_time
    assert failures(download([town.url(0, "/a"), town.url(0, "/b")], robots=True, retries=1)) == ["robots_disallowed", None]


def test_robots_txt_is_followed_and_read_as_far_as_500_kib(town: Town, download: Any) -> None:
    async def long(_: web.Request) -> web.StreamResponse:
        filler = "# nothing\n" * 60_000
        return web.Response(text=f"User-agent: *\nDisallow: /a\n{filler}Disallow: /b\n")

    town.answers["/robots.txt"] = always(301, Location=town.url(1, "/elsewhere.txt"))
    town.answers["/elsewhere.txt"] = long
    assert failures(download([town.url(0, "/a"), town.url(0, "/b")], robots=True)) == ["robots_disallowed", None]


def test_crawl_delay_sets_the_pace_as_far_as_patience_goes(town: Town, download: Any) -> None:
    town.robots[HOSTS[0]] = "User-agent: *\nCrawl-delay: 0.2\n"
    table = download([town.url(0, f"/{i}") for i in range(30)], robots=True, patience=1, per_host=LIMITED)
    starts = sorted(when for when, _, path in town.asked if path != "/robots.txt")
    assert 4 <= len(starts) <= 7
    assert starts[-1] - starts[0] >= 0.2 * (len(starts) - 1) - 0.03
    assert failures(table).count("throttled") == 30 - len(starts)


# What headers say


HEADERS = {
    "x_robots_tag": {"X_Robots_Tag": "noindex, nofollow"},
    "tdm_reservation": {"tdm_reservation": "1"},
    "content_usage": {"Content_Usage": "search=y, train-ai=n"},
}
OFF: dict[str, dict[str, Any]] = {
    "x_robots_tag": {"disallowed_header_directives": []},
    "tdm_reservation": {"tdm_reservation": False},
    "content_usage": {"content_usage": False},
}


def test_who_opts_out_in_the_headers_is_not_read(town: Town, download: Any) -> None:
    for code, headers in HEADERS.items():
        town.answers[f"/{code}"] = drip(**headers)
    began = time.monotonic()
    assert failures(download([town.url(0, f"/{code}") for code in HEADERS])) == list(HEADERS)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("code", OFF)
def test_each_signal_can_be_switched_off(town: Town, download: Any, code: str) -> None:
    for name, headers in HEADERS.items():
        town.answers[f"/{name}"] = at_first(200, b"", **headers)
    found = failures(download([town.url(0, f"/{name}") for name in HEADERS], **OFF[code]))
    assert dict(zip(HEADERS, found, strict=True))[code] == "empty_body"
    assert [name for name, failure in zip(HEADERS, found, strict=True) if failure == name] == [n for n in HEADERS if n != code]


def test_content_usage_in_robots_txt(town: Town, download: Any) -> None:
    town.robots[HOSTS[0]] = "User-agent: *\nAllow: /\nContent-Usage: train-ai=n\nContent-Usage: /free/ train-ai=y\n"
    urls = [town.url(0, "/a"), town.url(0, "/free/a")]
    assert failures(download(urls, robots=True)) == ["content_usage", None]
    assert failures(download(urls, robots=True, content_usage=False)) == [None, None]


# Block lists


def test_what_is_blocked_is_not_asked_for(town: Town, download: Any, tmp_path: Path) -> None:
    (tmp_path / "domains").write_text(f"# hosts\n{HOSTS[1]}\n")
    (tmp_path / "urls").write_text(f"{town.url(0, '/blocked')}\n")
    lists = {"domains": str(tmp_path / "domains"), "urls": str(tmp_path / "urls")}
    town.answers["/away"] = always(302, Location=town.url(1, "/target"))
    paths = [town.url(0, "/fine"), town.url(1, "/a"), town.url(0, "/blocked"), town.url(0, "/away")]
    assert failures(download(paths, blocklists=lists)) == [None, "blocked_domain", "blocked_url", "blocked_domain"]
    assert sorted(town.paths()) == ["/away", "/fine"]


# Who asks


def test_without_a_contact_only_loopback_is_asked(town: Town, download: Any) -> None:
    with pytest.raises(ConfigError, match="Add: contact: "):
        Download().check()
    Download(contact="https://crawl.example/").check()
    Download(allow_private_addresses=True).check()
    assert failures(download([town.url(0, "/a")], contact=None)) == [None]
    town.answers["/away"] = always(302, Location="http://images.invalid/a.jpg")
    urls = ["http://images.invalid/a.jpg", town.url(0, "/away"), town.url(0, "/b")]
    table = download(urls, contact=None)
    assert failures(table) == ["no_contact", "no_contact", None]
    details = table.column("failure_detail").to_pylist()
    assert details[0] == details[1]
    assert details[0].startswith("images.invalid is not loopback. Add to download: contact: ")


def test_the_default_user_agent_is_honest() -> None:
    agent = Download(contact="https://crawl.example/").user_agent()
    assert agent.startswith("pairsift/")
    assert agent.endswith(" (+https://crawl.example/)")
    assert "Mozilla" not in agent


# Proxies


class Proxy:
    """Passes on requests with an absolute URI, answers CONNECT with a tunnel, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        self.asked.append(f"{method} {target}")
        authority = target if method == "CONNECT" else target.split("/")[2]
        host, _, port = authority.partition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there_writer.write(head.replace(target, "/" + target.split("/", 3)[3], 1).encode())
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
def proxy() -> Iterator[tuple[Proxy, str]]:
    found = Proxy()
    with background_loop() as loop:
        server = on(loop, asyncio.start_server(found.serve, "127.0.0.1", 0))
        yield found, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        on(loop, asyncio.sleep(0.1))


def test_requests_go_through_the_proxy(town: Town, proxy: tuple[Proxy, str], download: Any) -> None:
    found, url = proxy
    allowed = ["127.0.0.0/8"]
    table = download([town.url(0, "/a"), town.url(1, "/b")], proxy=url, allow_private_addresses=allowed, robots=True)
    assert failures(table) == [None, None]
    asked = {f"GET {town.url(*at)}" for at in ((0, "/robots.txt"), (0, "/a"), (1, "/robots.txt"), (1, "/b"))}
    assert set(found.asked) <= asked  # requests on a connection that is kept open are not seen by this proxy
    assert len(town.asked) == 4
    secure = town.url(0, "/a").replace("http:", "https:")
    assert failures(download([secure], proxy=url, allow_private_addresses=allowed)) == ["tls_error"]
    assert found.asked[-1] == f"CONNECT {HOSTS[0]}:{town.port}"


def test_addresses_are_checked_before_the_proxy_is_asked(town: Town, proxy: tuple[Proxy, str], download: Any) -> None:
    found, url = proxy
    targets = [town.url(0, "/a"), "http://localhost/a", "http://no-such-host.invalid/a"]
    table = download(targets, proxy=url, allow_private_addresses=False)
    assert failures(table) == ["private_address", "private_address", "dns_error"]
    assert found.asked == []


def test_a_proxy_that_is_not_there_ends_the_run(town: Town, download: Any) -> None:
    with pytest.raises(ConfigError, match="the proxy cannot be reached"):
        download([town.url(0, "/a")], proxy="http://127.0.0.1:9")


def test_the_environment_names_no_proxy(town: Town, download: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert failures(download([town.url(0, "/a")])) == [None]
