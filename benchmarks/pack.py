"""Packing against `cat`: how fast kept rows become shards, per core and on two, and how fast payloads are written.

    python benchmarks/pack.py                             # 20 KB and 200 KB images: some minutes
    python benchmarks/pack.py --folder /dev/shm --sizes 20 --rows 40000 --repeats 9

A ledger is made up: rows with 18 columns of metadata, and images of random bytes of about the size asked for. Payloads and
layers are written by two processes, one unit of 1,000 rows after the other. Then, in turns, so that what else the machine
does hits all alike:

- `cat` of the shards' tars into one new file: the same bytes, out of the page cache;
- the same `cat`, and `sync` of what it wrote: a copy that waits for the disk, as a pack task does;
- the pack tasks of all shards in one process on one core: fates and layers read, tars, Parquet and stats written, fsynced;
- the same shards shared out to two processes with a core each, and two `cat`s with half of the tars each.

What was written is removed before each turn, not within it. Medians of all turns, and their range. In a folder in memory,
such as /dev/shm, nobody has to wait for a disk, and the two `cat`s are the same.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.ledger.intake import Intake
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.pack import pack
from pairsift.pipeline.pack.shards import ShardTask, write_fates
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.stages.storage import Folder

UNIT_ROWS = 1000
WORDS = ("the old harbour at dusk with two boats", "größer als 日本", 'a sign that says "open"', "red shoes, size 42")


def write_input(path: Path, rows: int) -> None:
    """URLs, captions and six columns more."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "url": [f"https://img{i % 97}.example.com/{i % 12:02d}/uploads/{i:012x}/photo-{i}.jpg?w=1200" for i in range(rows)],
        "caption": [f"{WORDS[i % 4]} {i}" for i in range(rows)],
        "rank": pa.array(range(rows), pa.int32()),
        "language": [("en", "de", "ja", None)[i % 4] for i in range(rows)],
        "license": ["?"] * rows,
        "similarity": rng.random(rows),
        "punsafe": pa.array(rng.random(rows), pa.float32()),
        "pwatermark": pa.array(rng.random(rows), pa.float32()),
    }
    pq.write_table(pa.table(columns), path)


def store(plan: Plan, size: int, unit: int, count: int) -> None:
    """What a worker writes of one unit: its payload and its layer."""
    layer = plan.steps[0].layer
    assert layer is not None
    rng = np.random.default_rng(unit)
    noise = np.random.default_rng(0).bytes(3 * size)
    lengths = rng.integers(size // 2, size + size // 2, count)
    starts = rng.integers(0, size, count)
    images = pa.array(
        [b"\xff\xd8" + noise[s : s + n - 2] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)], pa.large_binary()
    )
    ordinals = range(unit * UNIT_ROWS, unit * UNIT_ROWS + count)
    ledger = Ledger(plan.config.work)
    keys = [f"{ordinal:09d}" for ordinal in ordinals]
    references = ledger.write_payload(layer, unit, keys, ["jpg"] * count, images)
    sides = ("width", "height", "original_width", "original_height")
    columns = {
        **{name: references[name] for name in references.column_names},
        **{name: pa.array(rng.integers(100, 4000, count), pa.int32()) for name in sides},
        "ordinal": pa.array(ordinals),
        "original_bytes": pa.array(10 * lengths),
        **{name: ["jpg"] * count for name in ("image_format", "original_format")},
        "exif": ['{"Image Make": "Canon"}' if i % 10 == 0 else "{}" for i in range(count)],
        "sha256": [rng.bytes(32).hex() for _ in range(count)],
        "failure": pa.nulls(count, pa.string()),
        "failure_detail": pa.nulls(count, pa.string()),
    }
    ledger.commit(layer, unit, pa.table([columns[name] for name in layer.schema.names], schema=layer.schema))


def pack_one(packer: pack.Packer, task: ShardTask) -> int:
    """Write a shard; returns the most memory the process has had so far, in bytes."""
    packer(task)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _begin(cores: Any) -> None:
    os.sched_setaffinity(0, {cores.get()})
    pa.set_cpu_count(1)


@contextlib.contextmanager
def workers(count: int) -> Iterator[Pool]:
    """Processes with a core each."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in sorted(os.sched_getaffinity(0))[:count]:
        cores.put(core)
    with context.Pool(count, _begin, (cores,)) as pool:
        pool.starmap(time.sleep, [(0.2,)] * count)  # all have started
        yield pool


@dataclass
class Corpus:
    """A ledger as a run would have left it just before it packs."""

    folder: Path
    size: int  # bytes of an image, on average
    rows: int
    shard_rows: int
    plan: Plan = field(init=False)
    tasks: list[ShardTask] = field(init=False)
    stored_seconds: float = field(init=False)  # payloads and layers, on two cores

    def build(self, pool: Pool) -> None:
        write_input(self.folder / "rows.parquet", self.rows)
        config = load_config(
            {
                "input": {"use": "read.urls", "path": str(self.folder / "rows.parquet"), "unit_rows": UNIT_ROWS},
                "output": str(self.folder / "out"),
                "stages": [{"use": "download", "contact": "https://example.com/"}],
                "shards": {"rows": self.shard_rows},
            }
        )
        self.plan, ledger = make_plan(config), Ledger(config.work)
        generations = Intake(ledger, self.plan.intake, config.input).take_in()
        units = [(unit, min(UNIT_ROWS, self.rows - unit * UNIT_ROWS)) for unit in range(generations[0].units)]
        began = time.perf_counter()
        pool.starmap(partial(store, self.plan, self.size), units, chunksize=1)
        self.stored_seconds = time.perf_counter() - began
        with Cut(self.plan, ledger, generations) as cut:
            cut.play(len(self.plan.steps))
            fates = (batch for batch, _ in cut.fates(config.shards))
            self.tasks = write_fates(Folder(config.output), fates, self.plan, replace=True)

    @property
    def shards(self) -> Path:
        return self.folder / "out" / "shards"

    def tars(self) -> list[Path]:
        return sorted(self.shards.glob("*.tar"))


def cat(tars: list[Path], out: Path, cores: int, then: str = "true") -> float:
    """Seconds that it takes, shared out to so many processes, which end with the command `then` on what they wrote."""
    began = time.perf_counter()
    running = []
    for core in range(cores):
        names = " ".join(map(str, tars[core::cores]))
        command = f"cat {names} > {out}.{core} && {then} {out}.{core}"
        running.append(subprocess.Popen(["taskset", "-c", str(core), "sh", "-c", command]))
    for process in running:
        if process.wait():
            raise SystemExit("cat failed")
    seconds = time.perf_counter() - began
    for core in range(cores):
        Path(f"{out}.{core}").unlink()
    return seconds


class Benchmark:
    """All turns over one corpus."""

    def __init__(self, corpus: Corpus, pools: dict[int, Pool]) -> None:
        self._corpus, self._pools = corpus, pools
        self.seconds: dict[tuple[str, int], list[float]] = {}
        self.memory = 0

    def turns(self, repeats: int) -> None:
        self._pack(1)  # there is something to cat, and all has been read once
        saved = self._corpus.folder / "saved"
        shutil.copytree(self._corpus.shards, saved)
        tars = sorted(saved.glob("*.tar"))
        contenders: dict[str, Callable[[int], float]] = {
            "cat": lambda cores: cat(tars, self._corpus.folder / "cat", cores),
            "cat and sync": lambda cores: cat(tars, self._corpus.folder / "cat", cores, "sync"),
            "pack": self._pack,
        }
        for _ in range(repeats):
            for cores in self._pools:
                for name, run in contenders.items():
                    self.seconds.setdefault((name, cores), []).append(run(cores))

    def _pack(self, cores: int) -> float:
        shutil.rmtree(self._corpus.shards, ignore_errors=True)
        began = time.perf_counter()
        packer = pack.Packer(self._corpus.plan)
        peaks = self._pools[cores].map(partial(pack_one, packer), self._corpus.tasks, chunksize=1)
        self.memory = max(self.memory, *peaks)
        return time.perf_counter() - began

    def report(self) -> None:
        corpus = self._corpus
        total = sum(path.stat().st_size for path in corpus.tars()) / 1e6
        print(f"\n{corpus.rows:,} images of {corpus.size / 1000:.0f} KB, {len(corpus.tasks)} shards, {total:,.0f} MB of tars")
        median = {key: total / statistics.median(seconds) for key, seconds in self.seconds.items()}
        for cores in self._pools:
            for name in ("cat", "cat and sync", "pack"):
                speeds = sorted(total / seconds for seconds in self.seconds[name, cores])
                spread = f"({speeds[0]:,.0f}-{speeds[-1]:,.0f})"
                share, synced = (median[name, cores] / median[other, cores] for other in ("cat", "cat and sync"))
                speed = f"{median[name, cores]:7,.0f} MB/s {spread:>15}"
                print(f"  {name:13}on {cores} {speed} {share:6.0%} of cat, {synced:.0%} of cat and sync")
        scale = median["pack", 2] / median["pack", 1]
        print(f"  two cores pack {scale:.2f} x as fast as one; most memory of a process {self.memory / 1e6:,.0f} MB")
        stored = corpus.rows / corpus.stored_seconds
        rate = corpus.rows / (corpus.stored_seconds + total / median["pack", 2])
        print(f"  on two cores: payloads and layers {stored:,.0f} rows/s; payloads, layers and pack {rate:,.0f} rows/s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where everything is written")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200], help="of an image, KB")
    parser.add_argument("--rows", type=int, default=20_000, help="of 20 KB; of larger images fewer, for as many bytes")
    parser.add_argument("--shard-rows", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    for size in arguments.sizes:
        rows = max(UNIT_ROWS, arguments.rows * 20 // size)
        shard_rows = min(arguments.shard_rows, max(1, rows // 4))
        with tempfile.TemporaryDirectory(prefix="pairsift-benchmark-", dir=arguments.folder) as temporary:
            corpus = Corpus(Path(temporary), 1000 * size, rows, shard_rows)
            with workers(2) as pool:
                corpus.build(pool)
            with workers(1) as one, workers(2) as two:
                benchmark = Benchmark(corpus, {1: one, 2: two})
                benchmark.turns(arguments.repeats)
                benchmark.report()


if __name__ == "__main__":
    main()
