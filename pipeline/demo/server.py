"""A small web server for the demo and for tests: files, and the ways in which the web fails."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

TINY_SIDE = 8  # pixels

_PAGE = b"<!DOCTYPE html><html><head><title>Image hosting</title></head><body>This image is no longer here.</body></html>\n"


@dataclass(frozen=True)
class Answer:
    """What the server says to one path."""

    body: bytes
    content_type: str = "image/jpeg"
    status: HTTPStatus = HTTPStatus.OK


@contextmanager
def serve(files: Mapping[str, Answer]) -> Iterator[str]:
    """Serve on a free loopback port until the block ends; yields the base URL, without a slash at its end.

    `/photos/NAME` gives `files[NAME]`. The rest are faults: `/truncated.jpg` is the first half of the first file, `/tiny.jpg`
    an image of 8 x 8 pixels, `/page.jpg` an HTML page with status 200, `/gone.jpg` a 410, `/error.jpg` a 500. A path below
    `/slow/` is never answered (its connection is closed with the server). Every other path is a 404.
    """
    server = _Server({f"/photos/{name}": answer for name, answer in files.items()} | _faults(files))
    # 0.05 s between looks at whether to stop: the default of 0.5 s would be the slowest part of many a test.
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="demo-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _faults(files: Mapping[str, Answer]) -> dict[str, Answer]:
    whole = next((answer.body for answer in files.values()), b"")
    tiny = cv2.imencode(".jpg", np.full((TINY_SIDE, TINY_SIDE, 3), 127, np.uint8))[1].tobytes()
    return {
        "/truncated.jpg": Answer(whole[: len(whole) // 2]),
        "/tiny.jpg": Answer(tiny),
        "/page.jpg": Answer(_PAGE, "text/html; charset=utf-8"),
        "/gone.jpg": Answer(b"gone\n", "text/plain", HTTPStatus.GONE),
        "/error.jpg": Answer(b"error\n", "text/plain", HTTPStatus.INTERNAL_SERVER_ERROR),
    }


_NOT_FOUND = Answer(b"not found\n", "text/plain", HTTPStatus.NOT_FOUND)


class _Server(ThreadingHTTPServer):
    """Its handler threads are daemons, so closing never waits for them."""

    request_queue_size = 256  # a downloader opens its connections all at once; the default is 5

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.closing = Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what a downloader does after a timeout: not worth a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept open between requests
    server: _Server

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/slow/"):
            self.server.closing.wait()
            self.close_connection = True
            return
        answer = self.server.answers.get(path, _NOT_FOUND)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: a line per request would drown what the demo shows."""
