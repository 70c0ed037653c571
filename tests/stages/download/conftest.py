"""A web server on loopback with real photographs and every kind of trouble."""

import asyncio
import gzip
import importlib.util
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from aiohttp import web

from pairsift.stages.base import Transform
from pairsift.stages.download import Download


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 640 by 427 pixels: one of scikit-learn's sample images, so that no shared data is needed."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "datasets" / "images" / "china.jpg").read_bytes()


@pytest.fixture(scope="session")
def alpha_png() -> bytes:
    """40 by 30 pixels, red, the left half transparent."""
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[:, :, 2] = 255
    pixels[:, 20:, 3] = 255
    return bytes(cv2.imencode(".png", pixels)[1])


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """What the handlers do is looked up by path; `requests` and `most_at_a_time` say what was seen."""

    def __init__(self, photo: bytes, alpha_png: bytes) -> None:
        self.photo, self.alpha_png = photo, alpha_png
        self.requests: Counter[str] = Counter()
        self.user_agents: set[str] = set()
        self.units_under_way: set[str] = set()
        self.under_way = self.most_at_a_time = 0
        self.origin = ""

    def url(self, path: str) -> str:
        return self.origin + path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/robots.txt":
            return web.Response(status=404)
        self.requests[request.path] += 1
        self.user_agents.add(request.headers.get("User-Agent", ""))
        self.under_way += 1
        self.most_at_a_time = max(self.most_at_a_time, self.under_way)
        try:
            handler: Handler = getattr(self, request.path.split("/")[1])
            return await handler(request)
        finally:
            self.under_way -= 1

    async def good(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.photo, content_type="text/plain")  # the type lies; nobody is to believe it

    async def unicode(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.photo, status=200 if request.path == "/unicode/a b/ü.jpg" else 400)

    async def alpha(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.alpha_png)

    async def gzipped(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(self.photo), headers={"Content-Encoding": "gzip"})

    async def bomb(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(bytes(20_000_000)), headers={"Content-Encoding": "gzip"})

    async def bad_gzip(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=b"this is not gzip at all", headers={"Content-Encoding": "gzip"})

    async def html(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<!DOCTYPE html><html>Not here any more</html>", content_type="image/jpeg")

    async def empty(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=b"")

    async def truncated(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.photo[:-1000])

    async def tiny(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1]))

    async def status(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.path.split("/")[2]), body=b"no")

    async def flaky(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.photo, status=503 if self.requests[request.path] == 1 else 200)

    async def redirect(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.query["to"]} if "to" in request.query else {})

    async def redirect_raw(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: "
        request.transport.write(head + "/unicode/a b/ü.jpg".encode() + b"\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def loop(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=301, headers={"Location": request.path})

    async def hangs(self, _: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("the client should have gone")

    async def drips(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            await response.write(b"\xff")
            await asyncio.sleep(0.1)
        return response

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    async def short(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(self.photo[:500])
        assert request.transport is not None
        request.transport.close()
        return response

    async def reset(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def gibberish(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def meet(self, request: web.Request) -> web.StreamResponse:
        """Answers only once two units ask at the same time: /meet/UNIT/N."""
        self.units_under_way.add(request.path.split("/")[2])
        for _ in range(500):
            if len(self.units_under_way) == 2:
                return web.Response(body=self.photo)
            await asyncio.sleep(0.01)
        return web.Response(status=404)

    async def slowly(self, request: web.Request) -> web.StreamResponse:
        """/slowly/MILLISECONDS"""
        await asyncio.sleep(int(request.path.split("/")[2]) / 1000)
        return web.Response(body=self.photo)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{anything:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    server.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture
def server(photo: bytes, alpha_png: bytes) -> Iterator[Server]:
    with serving(Server(photo, alpha_png)) as running:
        yield running


Run = Callable[..., pa.Table]

DEFAULTS = {
    "allow_private_addresses": True,
    "contact": "https://crawl.example/",
    "robots": False,  # few of the servers here have one
    "timeout": 5,
    "retries": 0,
}


async def awaited(transform: Transform, table: pa.Table) -> pa.Table:
    result = transform(table)
    return result if isinstance(result, pa.Table) else await result


@pytest.fixture
def download() -> Run:
    """Run one table of URLs through a download stage with the given parameters."""

    def run(urls: list[str | None], **parameters: object) -> pa.Table:
        stage = Download.model_validate({**DEFAULTS, **parameters})
        table = pa.table({"ordinal": pa.array(range(len(urls)), pa.int64()), "url": pa.array(urls, pa.string())})
        with stage.open() as transform:
            return asyncio.run(awaited(transform, table))

    return run
