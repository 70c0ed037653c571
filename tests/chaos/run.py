"""Kills runs at random moments, starts them again, and compares what comes out with an undisturbed run, byte by byte.

    python tests/chaos/run.py --kills 60 --rows 5000 --seed 1 --runner ray

Victims are the driver, one of Ray's workers, the raylet, the GCS, or all of them at once; now and then it is a SIGTERM. The
next run starts at once, while orphans may be alive. After each death every file under a final name must be whole. When a run
comes to its end before all kills are spent, its output is compared, and it goes on with a new output folder.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PLUGINS = Path(__file__).parents[1] / "plugins"
MARK = "PAIRSIFT_CHAOS"
PHOTOS = 24
VICTIMS = {"local": ["driver"], "ray": ["driver", "worker", "worker", "raylet", "gcs", "everything"]}
MOMENTS = ("any", "any", "start", "intake", "payload", "layer", "fates", "shard")
INTERRUPTED = 4  # the exit code after SIGTERM
PATIENCE = 180.0  # seconds, for a run to end or a moment to come


def photograph(number: int) -> bytes:
    """A small JPEG that differs from the others."""
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 255, (8, 8 + number % 5, 3), np.uint8)
    pixels = cv2.resize(noise, (50 + 5 * number, 90), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


@contextmanager
def web() -> Iterator[str]:
    """A server that gives the same answer to the same URL, always: a photograph, or 404 for every 17th."""
    photos = [photograph(n) for n in range(PHOTOS)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.strip("/")
            body = photos[int(name) % PHOTOS] if name.isdigit() and int(name) % 17 != 3 else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # who asked was killed
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024  # five are not enough for hundreds of connections at once
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A killed client is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def recipe(folder: Path, base: str, rows: int) -> dict[str, Any]:
    """Download, filters, a duplicate rule as a barrier in the middle, a stage after it, shards."""
    path = folder / "urls.parquet"
    numbers = [n if n % 11 else n // 2 for n in range(rows)]
    table = pa.table({"url": [f"{base}/{n}" for n in numbers], "caption": [f"photograph {n}" for n in numbers]})
    pq.write_table(table, path)
    return {
        "input": {"use": "read.urls", "path": str(path), "unit_rows": max(20, rows // 60)},
        "stages": [
            {"use": "dedup.exact", "by": ["url"]},
            {"use": "download", "image_size": 64, "allow_private_addresses": True, "timeout": 60, "retries": 0},
            {"use": "filter.where", "keep": "original_width >= 60"},
            {"use": "dedup.exact", "by": ["caption"]},
            {"use": "pairsift_toys.slow", "seconds": 0.02},
        ],
        "shards": {"rows": max(50, rows // 12)},
    }


@dataclass
class Chaos:
    """One session: a recipe, how often it was killed, and what became of it."""

    folder: Path
    config: dict[str, Any]
    rng: random.Random
    say: Callable[[str], None]
    killed: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    finished: int = 0
    outputs: int = 0
    reference: dict[str, str] = field(default_factory=dict)
    _known: set[tuple[str, int]] = field(default_factory=set)  # files that were whole, by inode
    _logs: int = 0  # files in the output's log when the last run was started

    @property
    def output(self) -> Path:
        return self.folder / f"out-{self.outputs}"

    @property
    def kills(self) -> int:
        return sum(count for victim, count in self.killed.items() if victim != "SIGTERM")

    def start(self, runner: str) -> "subprocess.Popen[bytes]":
        file = self.folder / "config.json"
        file.write_text(json.dumps(self.config | {"output": str(self.output)}))
        command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(file), "--runner", runner]
        path = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))
        self.runs += 1
        self._logs = len(list(self.output.glob("log/*")))
        with (self.folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                command,
                env={**os.environ, MARK: str(self.folder), "PYTHONPATH": path},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def undisturbed(self) -> None:
        """What has to come out."""
        process = self.start("local")
        if process.wait(PATIENCE):
            raise AssertionError((self.folder / "stderr").read_text())
        self.reference = tree(self.output)
        codes = set(pq.read_table(self.output / "fates.parquet", columns=["code"])["code"].to_pylist())
        if codes - {None, "http_404"}:
            raise AssertionError(f"the server did not give its answers: {codes}")
        self.outputs += 1

    def kill_once(self, runner: str) -> None:
        """Start a run, or what is left of it, and kill somebody at some moment."""
        moment, victim = self.rng.choice(self._moments()), self.rng.choice(VICTIMS[runner])
        if self.rng.random() < 0.1:
            victim = "SIGTERM"
        process = self.start(runner)
        began = time.monotonic()
        self._wait_for(moment, process, runner)
        waited = time.monotonic() - began
        there = self._there()
        struck = process.poll() is None and self._strike(victim, process)
        if struck:
            self.killed[victim] += 1
        code = self._end_of(process, victim if struck else "")
        self._assert_whole()
        deed = f"kill {self.kills:3}: {victim:10}" if struck else "too late            "
        self.say(f"{deed} {waited:5.1f} s after the start (moment: {moment:7}) {there}; exit code {code}")
        if code == 0:
            self._compare()

    def _moments(self) -> list[str]:
        """Those that can still come in this output."""
        past = set()
        if list(self.output.glob("work/generations/*")):
            past.add("intake")
        if list(self.output.glob("work/layers/pairsift_toys.slow-*")):  # it comes after the last download
            past |= {"payload", "layer"}
        return [moment for moment in MOMENTS if moment not in past]

    def finish(self, runner: str) -> None:
        """Let it come to its end."""
        process = self.start(runner)
        code = process.wait(PATIENCE)
        if code:
            raise AssertionError(f"exit code {code}: {(self.folder / 'stderr').read_text()}")
        self._compare()

    def _compare(self) -> None:
        found = tree(self.output)
        different = sorted(name for name in found.keys() | self.reference if found.get(name) != self.reference.get(name))
        if different:
            raise AssertionError(f"not as in an undisturbed run: {', '.join(different)} (in {self.output})")
        fates = pq.read_table(self.output / "fates.parquet", columns=["ordinal"])["ordinal"].to_pylist()
        if fates != list(range(len(fates))):
            raise AssertionError("a row has no fate, or two")
        self.finished += 1
        shutil.rmtree(self.output)
        self.outputs += 1
        self.say(f"         an output was finished, and is identical to the undisturbed one ({len(found)} files)")

    def _wait_for(self, moment: str, process: "subprocess.Popen[bytes]", runner: str) -> None:
        """Until a moment has come, or the run has ended."""
        work = self.output / "work"
        patterns = {
            "intake": "work/layers/input-*/*/*",
            "payload": "work/payloads/*/*/*.tar",
            "layer": "work/layers/download-*/*/.*.tmp",
            "fates": ".fates.parquet.*",
            "shard": "shards/*",
        }
        seconds = self.rng.uniform(0, 12 if runner == "ray" else 3)
        until = time.monotonic() + {"any": seconds, "start": seconds / 6}.get(moment, PATIENCE)
        before = set(self.output.glob(patterns[moment])) if moment in patterns else set()
        while process.poll() is None and time.monotonic() < until:
            if moment in patterns and work.exists() and set(self.output.glob(patterns[moment])) - before:
                time.sleep(self.rng.choice([0, 0, 0.05, 0.3]))
                return
            time.sleep(0.003)

    def _strike(self, victim: str, process: "subprocess.Popen[bytes]") -> bool:
        if victim == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            return True
        mine = ours(str(self.folder))
        chosen = {
            "driver": [process.pid],
            "worker": [pid for pid, name in mine.items() if name.startswith("ray::")],
            "raylet": [pid for pid, name in mine.items() if "raylet/raylet" in name],
            "gcs": [pid for pid, name in mine.items() if "gcs_server" in name],
            "everything": list(mine),
        }[victim]
        if victim == "worker" and chosen:
            chosen = [self.rng.choice(sorted(chosen))]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(chosen)

    def _end_of(self, process: "subprocess.Popen[bytes]", victim: str) -> int | None:
        """The exit code. A run whose worker was killed goes on; it is left alone for a while and then loses its driver, too."""
        try:
            code = process.wait(self.rng.uniform(1, 6) if victim == "worker" else PATIENCE)
        except subprocess.TimeoutExpired:
            if victim != "worker":
                raise
            process.kill()
            self.killed["driver"] += 1
            return process.wait()
        had_begun = len(list(self.output.glob("log/*"))) > self._logs
        if victim == "SIGTERM" and code not in ((0, INTERRUPTED) if had_begun else (INTERRUPTED, -signal.SIGTERM)):
            raise AssertionError(f"exit code {code} after SIGTERM: {(self.folder / 'stderr').read_text()}")
        if not victim and code:
            raise AssertionError(f"exit code {code} although nobody was killed: {(self.folder / 'stderr').read_text()}")
        return code

    def _there(self) -> str:
        units = len(list(self.output.glob("work/layers/download-*/*/0*.parquet")))
        shards = len(list(self.output.glob("shards/*_stats.json")))
        return f"with {units:3} units downloaded, {shards:2} shards"

    def _assert_whole(self) -> None:
        """No file under a final name is cut short. What writes at this moment has temporary names."""
        for path in sorted(self.output.rglob("*")):
            with suppress(FileNotFoundError):  # an orphan may still be tidying up
                known = (str(path), path.stat().st_ino)
                if path.is_file() and not path.name.startswith(".") and known not in self._known:
                    read_whole(path)
                    self._known.add(known)


def read_whole(path: Path) -> None:
    """Raises where a file is not what its name says."""
    try:
        if path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    assert len(file.read()) == member.size
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except Exception as error:
        raise AssertionError(f"{path} is not whole: {error}") from error


def tree(output: Path) -> dict[str, str]:
    """Digests of what must be reproducible: shards and fates."""
    files = [*sorted((output / "shards").iterdir()), output / "fates.parquet"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def ours(mark: str) -> dict[int, str]:
    """Command lines of the processes with the mark in their environment."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with suppress(OSError):
                if f"{MARK}={mark}".encode() in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found[int(entry)] = (
                        Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
    return found


def wreak(folder: Path, runners: list[str], kills: int, rows: int, seed: int, say: Callable[[str], None]) -> Chaos:
    """Kill so often, then let it finish. `runners` are used in turns. Raises AssertionError for whatever is not as promised."""
    with web() as base:
        chaos = Chaos(folder, recipe(folder, base, rows), random.Random(seed), say)
        try:
            chaos.undisturbed()
            while chaos.kills < kills:
                chaos.kill_once(runners[chaos.runs % len(runners)])
            chaos.finish(runners[0])
        finally:
            for pid in ours(str(folder)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    return chaos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runner", default="ray", choices=["ray", "local", "both"])
    asked = parser.parse_args()
    runners = ["ray", "local"] if asked.runner == "both" else [asked.runner]
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="pairsift-chaos-"))
    chaos = wreak(folder, runners, asked.kills, asked.rows, asked.seed, lambda line: print(line, flush=True))
    shutil.rmtree(folder)
    victims = ", ".join(f"{victim} {count}" for victim, count in chaos.killed.most_common())
    print(f"{chaos.kills} kills ({victims}) in {chaos.runs} runs and {time.monotonic() - began:.0f} s;", end=" ")
    print(f"{chaos.finished} outputs came to their end, all identical to the undisturbed one")


if __name__ == "__main__":
    main()
