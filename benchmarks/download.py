"""pairsift's downloader against img2dataset's: one machine, one server, one list, in turns.

    python benchmarks/download.py                    # all of it: some ten minutes on two cores
    python benchmarks/download.py --rows 3000 --repeats 1 --cases corpus
    python benchmarks/download.py --web              # a simulated web: slow hosts, silent hosts

How it is measured, the same way for both: nginx counts requests. A run's steady state is the time from the request at 30 %
of the rows to that at 90 %; neither the start of processes nor the end, when one worker has nothing left, is in it. CPU
seconds are those of all processes that a run started (they are known by a mark in their environment), in the same window.
The bare work is what must be done to the bytes, in one thread, nothing else: scaled decode, resize, encode, SHA-256.

On a machine with other work, CPU milliseconds are what to look at, and pairs of runs that follow each other. Found last, on two
idle cores, pairsift on Ray beside img2dataset, images a second and CPU time: 1.85 and 1.83 times on the corpus, 1.95 and
1.95 on its JPEGs, 3.35 and 3.54 on bytes as they came (two runs each); docs/decisions/14-decoders.md says where the time goes.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from simulated_web import simulate
from web_corpus import build, nginx

from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions

BEGIN, END = 0.3, 0.9  # of the rows: the steady state
POLL = 0.1  # seconds
MARK = "PAIRSIFT_BENCHMARK"
SIZE = {"image_size": 256, "resize_mode": "keep_ratio", "resize_only_if_bigger": True}
RAW = {"resize_mode": "no", "disable_all_reencoding": True}


@dataclass(frozen=True)
class Rate:
    """What one run came to in its steady state."""

    images_per_second: float
    cpu_milliseconds: float  # per image


def cpu_seconds(mark: str, known: dict[int, tuple[bool, float]]) -> float:
    """CPU time so far of every process with the mark in its environment, those that have ended included."""
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            if pid not in known or not known[pid][0]:
                known[pid] = (f"{MARK}={mark}".encode() in Path("/proc", entry, "environ").read_bytes(), 0.0)
            if known[pid][0]:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                known[pid] = (True, (int(fields[11]) + int(fields[12])) / ticks)
        except OSError:  # gone, or another user's
            continue
    return sum(seconds for ours, seconds in known.values() if ours)


def requests(server: str) -> int:
    """How many requests nginx has seen."""
    with urllib.request.urlopen(f"{server}/requests") as answer:
        return int(answer.read().split()[9])


def watch(command: list[str], server: str, rows: int, log: Path) -> Rate:
    """Run a command to its end and take its rate in its steady state."""
    mark, known = uuid.uuid4().hex, {os.getpid(): (False, 0.0)}
    environment = {**os.environ, MARK: mark, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONWARNINGS": "ignore"}
    first = requests(server)
    asked = 1
    points: list[tuple[float, int, float]] = []
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        while process.poll() is None:
            time.sleep(POLL)
            seen = requests(server) - first - asked
            asked += 1
            if seen <= rows * (END + 0.05):
                points.append((time.perf_counter(), seen, cpu_seconds(mark, known)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: see {log}")
    window = [point for point in points if rows * BEGIN <= point[1] <= rows * END]
    if len(window) < 5:
        raise SystemExit("the run was too short to be measured: more --rows")
    seconds, images, cpu = (last - begin for begin, last in zip(window[0], window[-1], strict=True))
    return Rate(images / seconds, 1000 * cpu / images)


def theirs(urls: Path, out: Path, threads: int, raw: bool) -> list[str]:
    """img2dataset's command line. 1,000 images a shard: it starts its threads anew for each."""
    size = RAW if raw else SIZE
    flags = [f"--{name}={value}" for name, value in size.items()]
    return [
        *(sys.executable, "-c", "from img2dataset import main; main()"),
        *(f"--url_list={urls}", "--input_format=parquet", "--url_col=url"),
        *(f"--output_folder={out}", "--output_format=webdataset"),
        *("--processes_count=2", f"--thread_count={threads}", "--number_sample_per_shard=1000", "--compute_hash=sha256"),
        *("--extract_exif=True", "--enable_wandb=False", "--retries=0", *flags),
    ]


def ours(urls: Path, out: Path, runner: str, raw: bool, decode: str) -> list[str]:
    """`pairsift run` with the download stage alone."""
    size = RAW if raw else {**SIZE, "decode": decode}
    config = {
        "input": {"use": "read.urls", "path": str(urls), "columns": {"url": "url"}},
        "output": str(out),
        "stages": [{"use": "download", **size, "allow_private_addresses": True, "retries": 0, "resources": {"workers": 2}}],
    }
    path = out.with_suffix(".json")
    path.write_text(json.dumps(config))
    return [sys.executable, "-c", "from pairsift.pipeline.cli.main import main; main()", "run", str(path), "--runner", runner]


def url_list(folder: Path, name: str, server: str, files: list[Path], rows: int) -> Path:
    """`rows` URLs that go round the files; a query makes each of them one of its own."""
    urls = [f"{server}/{files[row % len(files)].name}?{row}" for row in range(rows)]
    pq.write_table(pa.table({"url": urls}), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def bare(files: list[Path], decode: str) -> float:
    """Milliseconds of CPU per image for the work itself, in one thread. Reading the files is not in it."""
    options = ImageOptions(decode=decode, **SIZE)
    bodies = [path.read_bytes() for path in files]
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_bare, bodies, options).result()


def _bare(bodies: list[bytes], options: ImageOptions) -> float:
    began = time.thread_time()
    for body in bodies:
        prepare(body, options)
        hashlib.sha256(body).hexdigest()
    return 1000 * (time.thread_time() - began) / len(bodies)


@dataclass(frozen=True)
class Case:
    """One line of the table: a list of files and what is done with them."""

    name: str
    files: list[Path]
    raw: bool


class Benchmark:
    """All runs over one server."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, server: str) -> None:
        self._arguments, self._folder, self._server = arguments, folder, server
        self._runs = 0

    def measure(self, case: Case) -> None:
        rows = self._arguments.rows * (3 if case.raw else 1)
        urls = url_list(self._folder, case.name.replace(" ", "-"), self._server, case.files, rows)
        rates: dict[str, list[Rate]] = {}
        for _ in range(self._arguments.repeats):  # in turns: what else the machine does hits all of them
            for name, command in self._contenders(urls, case.raw).items():
                rates.setdefault(name, []).append(self._run(command, rows))
                print(f"  {case.name}: {name}: {rates[name][-1]}", file=sys.stderr, flush=True)
        self._table(case, rates)

    def _contenders(self, urls: Path, raw: bool) -> dict[str, Callable[[Path], list[str]]]:
        there: dict[str, Callable[[Path], list[str]]] = {}
        for threads in self._arguments.threads:
            there[f"img2dataset, {threads} threads"] = lambda out, t=threads: theirs(urls, out, t, raw)
        for runner in self._arguments.runners:
            for decode in self._arguments.decode:
                name = f"pairsift, {runner}" if raw else f"pairsift, {runner}, {decode}"
                there[name] = lambda out, r=runner, d=decode: ours(urls, out, r, raw, d)
        return there

    def _run(self, command: Callable[[Path], list[str]], rows: int) -> Rate:
        self._runs += 1
        out = self._folder / f"run-{self._runs}"
        try:
            return watch(command(out), self._server, rows, self._folder / f"run-{self._runs}.log")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _table(self, case: Case, rates: dict[str, list[Rate]]) -> None:
        best = max(
            (statistics.median(r.images_per_second for r in runs) for name, runs in rates.items() if name.startswith("img2")),
            default=float("nan"),
        )
        work = {} if case.raw else {decode: bare(case.files, decode) for decode in self._arguments.decode}
        print(f"\n{case.name}; bare work: " + (", ".join(f"{d} {ms:.2f} ms" for d, ms in work.items()) or "none"))
        print(f"{'':28}{'images/s':>9} {'(spread)':>14} {'x best of img2dataset':>22} {'CPU ms/image':>13} {'x bare':>7}")
        for name, runs in rates.items():
            speeds = sorted(run.images_per_second for run in runs)
            speed, cpu = statistics.median(speeds), statistics.median(run.cpu_milliseconds for run in runs)
            over = work.get(name.rpartition(" ")[2])
            spread = f"({speeds[0]:.0f}-{speeds[-1]:.0f})"
            times_bare = f"{cpu / over:7.2f}" if over else f"{'':7}"
            print(f"{name:28}{speed:9.0f} {spread:>14} {speed / best:22.2f} {cpu:13.2f} {times_bare}", flush=True)


def parse() -> argparse.Namespace:
    data = os.environ.get("PAIRSIFT_TEST_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "pairsift-benchmark" / "corpus")
    parser.add_argument("--photos", type=Path, default=Path(data) / "coco", help="folder of JPEGs the corpus is made from")
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=8000, help="per run; the raw case has three times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=["corpus", "jpegs", "raw"], choices=["corpus", "jpegs", "raw"])
    parser.add_argument("--threads", nargs="*", type=int, default=[16, 32, 64], help="of img2dataset, per process")
    parser.add_argument("--runners", nargs="*", default=["ray", "local"])
    parser.add_argument("--decode", nargs="+", default=["fast"], choices=["fast", "exact"])
    parser.add_argument("--web", action="store_true", help="the simulated web instead")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="pairsift-benchmark-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        if arguments.web:
            simulate(folder, arguments.rows)
            return
        files = build(arguments.corpus, arguments.photos, arguments.files)
        jpegs = [path for path in files if path.suffix == ".jpg"]
        cases = {"corpus": Case("corpus", files, False), "jpegs": Case("jpegs", jpegs, False), "raw": Case("raw", files, True)}
        with nginx(arguments.corpus, folder / "nginx") as server:
            benchmark = Benchmark(arguments, folder, server)
            for name in arguments.cases:
                benchmark.measure(cases[name])


if __name__ == "__main__":
    main()
