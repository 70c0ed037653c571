"""A web as far away as the real one: answers after 300 ms (lognormal), and hosts that never answer.

Hosts are addresses in 127.0.0.0/8, one for each few rows, as in a list of the whole web. What comes of it is compared with
perfectly overlapped fetching: all connections busy from the first row to the last.
"""

import json
import multiprocessing
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEDIAN_SECONDS, SIGMA = 0.3, 0.6  # of an answer's latency
SILENT = 0.04  # of the hosts
ROWS_PER_HOST = 4
TIMEOUT, CONNECTIONS, WORKERS = 10, 256, 2


def latency(row: int) -> float:
    """Seconds to an answer for one row; the same each time. Infinite where its host is silent."""
    if random.Random(f"host {row // ROWS_PER_HOST}").random() < SILENT:
        return float("inf")
    return random.Random(f"row {row}").lognormvariate(np.log(MEDIAN_SECONDS), SIGMA)


def address(row: int) -> str:
    """The loopback address of the row's host."""
    host = row // ROWS_PER_HOST
    return f"127.{1 + host // 60000}.{host // 240 % 250}.{1 + host % 240}"


def _serve(listeners: list[socket.socket], asked: Any) -> None:
    """One process, one thread: answers become due on a heap. When row number n is asked for is noted in `asked`."""
    picture = cv2.imencode(".jpg", np.full((64, 64, 3), 99, np.uint8))[1].tobytes()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s" % (len(picture), picture)
    selector, due = DefaultSelector(), []
    for listener in listeners:
        selector.register(listener, EVENT_READ)
    doors = set(listeners)
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        for key, _ in selector.select(wait):
            if key.fileobj in doors:
                connection = key.fileobj.accept()[0]
                selector.register(connection, EVENT_READ)
                continue
            connection = key.fileobj
            try:
                request = connection.recv(65536)
            except OSError:
                request = b""
            if not request:
                selector.unregister(connection)
                connection.close()
            elif b"/robots.txt" in request[:100]:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                row = int(request.split(b" ", 2)[1].rpartition(b"/")[2])
                asked[row] = time.monotonic()
                seconds = latency(row)
                if seconds < float("inf"):
                    heappush(due, (time.monotonic() + seconds, id(connection), connection))
        while due and due[0][0] <= time.monotonic():
            connection = heappop(due)[2]
            if connection.fileno() >= 0:
                connection.setblocking(True)
                connection.sendall(answer)


@contextmanager
def _web(rows: int) -> Iterator[tuple[int, Any]]:
    """(port, when each row was asked for: seconds, 0 where it was not) of hosts that listen on loopback addresses."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    first = socket.create_server((address(0), 0), backlog=64)
    port = first.getsockname()[1]
    others = [socket.create_server((address(row), port), backlog=64) for row in range(ROWS_PER_HOST, rows, ROWS_PER_HOST)]
    asked = multiprocessing.Array("d", rows, lock=False)
    server = multiprocessing.Process(target=_serve, args=([first, *others], asked), daemon=True)
    server.start()
    try:
        yield port, asked
    finally:
        server.terminate()
        for listener in [first, *others]:
            listener.close()


def steady(asked: Any) -> float:
    """Rows per second from the request at 30 % of the rows to that at 90 %, as the hosts saw them."""
    times = sorted(time for time in asked if time)
    first, last = int(0.3 * len(times)), int(0.9 * len(times))
    return (last - first) / (times[last] - times[first])


def perfect_rate(rows: int, connections: int) -> float:
    """Rows per second where each connection takes the next row as soon as it is free, and nothing else costs time."""
    return connections * rows / sum(min(latency(row), TIMEOUT) for row in range(rows))


def simulate(folder: Path, rows: int) -> None:
    """Run `pairsift run` on both runners against the simulated web, and print rows per second beside what is possible."""
    for runner, workers in (("local", 1), ("ray", WORKERS)):
        with _web(rows) as (port, asked):
            report = _run(folder / runner, port, rows, runner, workers)
            rate = steady(asked)
        possible = perfect_rate(rows, CONNECTIONS * workers)
        answered = sum(latency(row) < float("inf") for row in range(rows)) / rows
        assert report["counts"]["success"] == round(answered * rows), report["failures"]
        print(
            f"{runner}, {workers} x {CONNECTIONS} connections: {rows / report['seconds']:.0f} rows/s with start and end, "
            f"{rate:.0f} steady; perfectly overlapped {possible:.0f}: {rate / possible:.0%}",
            flush=True,
        )


def _run(folder: Path, port: int, rows: int, runner: str, workers: int) -> dict:
    folder.mkdir()
    urls = [f"http://{address(row)}:{port}/{row}" for row in range(rows)]
    pq.write_table(pa.table({"url": urls}), folder / "urls.parquet")
    download = {"use": "download", "timeout": TIMEOUT, "retries": 0, "connections": CONNECTIONS, "min_rate": 0}
    config = {
        "input": {"use": "read.urls", "path": str(folder / "urls.parquet"), "columns": {"url": "url"}},
        "output": str(folder / "out"),
        "stages": [{**download, "allow_private_addresses": True, "resources": {"workers": workers}}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", "from pairsift.pipeline.cli.main import main; main()", "run", str(folder / "config.json")]
    subprocess.run([*command, "--runner", runner], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "out" / "run.json").read_text())
