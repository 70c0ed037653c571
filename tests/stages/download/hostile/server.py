"""A server that breaks every rule of HTTP there is: raw sockets on loopback, in a thread of its own."""

import asyncio
import gzip
import socket
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from hostile import images
from hostile.certificates import Authority

Trick = Callable[["Server", asyncio.StreamWriter, str], Awaitable[None]]
TRICKS: dict[str, Trick] = {}
# Answers that are whole: a client may use their connections again. The others' it must not.
KEPT_ALIVE = (
    "good",
    "image",
    "status",
    "redirect",
    "redirect_nowhere",
    "loop",
    "empty",
    "no_content",
    "many_cookies",
    "coding",
)
KEPT_ALIVE += ("gzip_honest", "gzip_bomb", "gzip_of_gzip", "gzip_broken", "gzip_cut", "deflate_bomb", "late_surplus")
TLS_KINDS = ("valid", "expired", "wrong_host", "self_signed")


def trick(do: Trick) -> Trick:
    TRICKS[do.__name__] = do
    return do


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


async def in_two(writer: asyncio.StreamWriter, first: bytes, second: bytes) -> None:
    """So that the client has read the first before it gets the second."""
    writer.write(first)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(second)


GOOD = images.saved(images.pixels(), "JPEG")


@trick
async def good(_: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(GOOD))


@trick
async def image(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(images.picture(argument), "Content-Type: image/jpeg"))


@trick
async def no_answer(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    await server.until_gone(writer)


@trick
async def header_drip(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.05)


@trick
async def headers_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """Thousands of small ones: any number, if they are taken."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"".join(b"X-Header-%d: %s\r\n" % (i, b"v" * 100) for i in range(1000)))
        await writer.drain()


@trick
async def header_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"a" * 65536)
        await writer.drain()


@trick
async def cookies_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"".join(b"Set-Cookie: c%d=%s; Path=/\r\n" % (i, b"v" * 3000) for i in range(100)))
        await writer.drain()


@trick
async def many_cookies(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """As many as real sites set."""
    writer.write(answer(GOOD, *[f"Set-Cookie: c{i}={'v' * 500}; Path=/" for i in range(60)]))


@trick
async def status_line_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(b"HTTP/1.1 200 ")
    while True:
        writer.write(b"O" * 65536)
        await writer.drain()


@trick
async def early_hints_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    while True:
        writer.write(head("Link: </a.css>; rel=preload", status="103 Early Hints"))
        await writer.drain()
        await asyncio.sleep(0.001)


@trick
async def body_drip(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Content-Length: 1000000") + GOOD[:100])
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.05)


@trick
async def body_stalls(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head(f"Content-Length: {len(GOOD)}") + GOOD[:-1])
    await server.until_gone(writer)


@trick
async def body_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Connection: close") + GOOD)
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@trick
async def chunks_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Transfer-Encoding: chunked"))
    while True:
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()


@trick
async def tiny_chunks(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """One byte each: a hundredfold of what the body has goes over the wire, in extensions."""
    writer.write(head("Transfer-Encoding: chunked"))
    while True:
        writer.write((b"1;" + b"x" * 100 + b"\r\na\r\n") * 500)
        await writer.drain()


@trick
async def length_too_long(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head(f"Content-Length: {len(GOOD) + 1}") + GOOD)


@trick
async def length_too_short(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """The picture is cut; what is left of it must not pass for the next answer."""
    writer.write(head(f"Content-Length: {len(GOOD) - 200}", "Connection: keep-alive") + GOOD)
    await asyncio.sleep(0.2)


@trick
async def surplus(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """All of the picture, and then an answer that nobody asked for."""
    writer.write(answer(GOOD, "Connection: keep-alive") + answer(b"<html>forged</html>"))
    await asyncio.sleep(0.2)


@trick
async def late_surplus(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """As `surplus`, but when the connection is waiting for its next request already."""
    writer.write(answer(GOOD, "Connection: keep-alive"))
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(answer(b"<html>forged</html>"))


@trick
async def length_is_negative(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Content-Length: -5") + GOOD)


@trick
async def length_is_huge(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Content-Length: 99999999999999999999999999") + GOOD)


@trick
async def length_is_a_terabyte(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Content-Length: 1000000000000") + GOOD)


@trick
async def two_lengths(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Content-Length: 5", f"Content-Length: {len(GOOD)}") + GOOD)


@trick
async def length_and_chunks(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head(f"Content-Length: {len(GOOD)}", "Transfer-Encoding: chunked") + GOOD)


@trick
async def chunk_size_is_no_number(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    await in_two(writer, head("Transfer-Encoding: chunked"), b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n")


@trick
async def chunk_size_is_huge(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    await in_two(writer, head("Transfer-Encoding: chunked"), b"f" * 40 + b"\r\n" + GOOD)


@trick
async def chunk_too_short(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    await in_two(writer, head("Transfer-Encoding: chunked"), b"%x\r\n" % (len(GOOD) - 9) + GOOD + b"\r\n0\r\n\r\n")


@trick
async def no_last_chunk(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    await in_two(writer, head("Transfer-Encoding: chunked"), b"%x\r\n" % len(GOOD) + GOOD + b"\r\n")


@trick
async def reset_at_once(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    reset(writer)


@trick
async def reset_in_body(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head(f"Content-Length: {len(GOOD)}") + GOOD[: len(GOOD) // 2])
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


@trick
async def closed_at_once(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    pass


@trick
async def not_http(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")


@trick
async def http_0_9(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(GOOD)


@trick
async def nulls(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(bytes(100_000))


@trick
async def null_in_header(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(GOOD, "X-Null: a\0b"))


@trick
async def switching_protocols(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols"))
    await server.until_gone(writer)


@trick
async def no_content(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head(status="204 No Content"))


@trick
async def empty(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(b""))


@trick
async def status(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(b"no", status=f"{argument} Because"))


@trick
async def error_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """A 404 whose page never ends: nobody is to wait for it."""
    writer.write(head("Connection: close", status="404 Not Found"))
    while True:
        writer.write(b"not here " * 5000)
        await writer.drain()


@trick
async def redirect(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(b"", f"Location: {unquote(argument)}", status="302 Found"))


@trick
async def redirect_with_body_without_end(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(head("Location: /good", "Connection: close", status="302 Found"))
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@trick
async def redirect_nowhere(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(answer(b"", status="302 Found"))


@trick
async def loop(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    server.loops += 1
    writer.write(answer(b"", f"Location: /loop/{server.loops}", status="307 Temporary Redirect"))


def encoded(coding: str, body: bytes) -> bytes:
    return answer(body, f"Content-Encoding: {coding}")


@trick
async def gzip_honest(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(encoded("gzip", gzip.compress(GOOD)))


@trick
async def gzip_bomb(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """200 MB in 200 KB, five times: one gzip file after the other is one gzip file."""
    writer.write(encoded("gzip", gzip_of_zeros() * 5))


@cache
def gzip_of_zeros() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(200)) + packer.flush()


@trick
async def gzip_of_gzip(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(encoded("gzip, gzip", gzip.compress(gzip.compress(bytes(10_000_000)))))


@trick
async def gzip_broken(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(encoded("gzip", gzip.compress(GOOD)[:40] + b"\xff" * 200))


@trick
async def gzip_cut(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(encoded("gzip", gzip.compress(GOOD)[:-300]))


@trick
async def deflate_bomb(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    writer.write(encoded("deflate", images.deflated_zeros(200 << 20)))


@trick
async def coding(server: "Server", writer: asyncio.StreamWriter, argument: str) -> None:
    """A picture under the name of a coding."""
    writer.write(encoded(argument, GOOD))


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Server:
    """`url("good")` is http; `tls[kind]` are the ports of TLS servers; `mute` takes connections and says nothing."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.tls: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.loops = self.connections = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def until_gone(self, writer: asyncio.StreamWriter) -> None:
        """Say nothing more until the client hangs up."""
        await self._readers[writer].read()

    async def start(self) -> None:
        self.port = await self._listen(self._connection)
        for kind in TLS_KINDS:
            self.tls[kind] = await self._listen(self._connection, self.authority.server_context(kind))
        self.mute = await self._listen(self._say_nothing)
        self.babble = await self._listen(self._say_nonsense)

    async def _listen(self, handler: Callable[..., Awaitable[None]], context: ssl.SSLContext | None = None) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self._readers[writer] = reader
            try:
                await handler(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client has had enough, or the test is over
            finally:
                self._tasks.discard(task)
                del self._readers[writer]
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context, backlog=500)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            name, _, argument = path.lstrip("/").partition("/")
            self.asked[name] += 1
            if name == "robots.txt":
                writer.write(answer(b"", status="404 Not Found"))
                continue
            await TRICKS[name](self, writer, argument)
            await writer.drain()
            if name not in KEPT_ALIVE:
                return

    async def _say_nothing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.until_gone(writer)

    async def _say_nonsense(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x15\x03\x01\x00\x02\x02\x28" * 10)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # half of what happens here is an error on purpose
    server = Server(folder)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, name="hostile-server")
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def prebuilt() -> None:
    """Make the large bodies beforehand, so that no deadline runs while they are compressed."""
    gzip_of_zeros()
    images.deflated_zeros(200 << 20)
    for name in [*images.REFUSED, *images.ACCEPTED]:
        images.picture(name)
