"""What a selector costs that is dealt out: CPU seconds and memory of the worker that has most, by wave of tasks.

    python benchmarks/dealt.py --rows 10_000_000 --folder /tmp/dealt                  # makes a ledger of that size first
    python benchmarks/dealt.py --rows 10_000_000 --folder /tmp/dealt --only exact top # on the ledger that is there
    python benchmarks/dealt.py --rows 1_000_000 --make phash                          # dedup.perceptual; vector: dedup.semantic

Rows are metadata: a URL of 75 characters, one in twelve another's; eight words of caption; a domain of 100,000; a similarity;
three of 500,000 entries. Tasks run one after the other in one process beside this one, so what is measured is the work itself:
Ray adds some milliseconds a task. Memory is the process's own (RssAnon), looked at twenty times a second.
"""

import argparse
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.cut.dealt import Deal
from pairsift.pipeline.ledger.intake import Generation, read_generations
from pairsift.pipeline.ledger.layers import Layer, Ledger, part_path
from pairsift.pipeline.plan import make_plan

UNIT_ROWS = 1 << 17
DIM = 512
COLUMNS = pa.schema(
    {"url": pa.string(), "caption": pa.string(), "domain": pa.string(), "similarity": pa.float32()}
    | {"entries": pa.list_(pa.int32()), "phash": pa.string(), "vector": pa.list_(pa.float16(), DIM)}
)
SELECTORS: dict[str, dict[str, Any]] = {
    "exact": {"use": "dedup.exact", "by": ["url"]},
    "cap": {"use": "select.cap", "per": ["domain"], "rows": 50},
    "frequent": {"use": "select.frequent", "per": ["caption"], "distinct": ["url"], "most": 10},
    "top": {"use": "select.top_fraction", "by": "similarity", "fraction": 0.3},
    "sample": {"use": "select.sample", "count": 1_000_000},
    "fraction": {"use": "select.sample", "fraction": 0.1},
    "balance": {"use": "select.balance", "per_entry": 20},
    "rare_words": {"use": "select.rare_words", "vocabulary": 100_000},
}


NEAR = {
    "perceptual": {"use": "dedup.perceptual", "distance": 15},
    "perceptual31": {"use": "dedup.perceptual", "distance": 31},
    "semantic": {"use": "dedup.semantic", "by": "vector", "similarity": 0.95},
}
NEAR_BY = {"phash": "perceptual", "vector": "semantic"}


def config(folder: Path, selector: dict[str, Any], partitions: int) -> Config:
    empty = folder / "input.parquet"
    if not empty.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(COLUMNS.empty_table(), empty)
    source = {"use": "read.urls", "path": str(empty), "unit_rows": UNIT_ROWS}
    given = {"input": source, "output": str(folder / "out"), "stages": [selector], "cut_partitions": partitions}
    return load_config(given)


def rows(first: int, count: int) -> pa.Table:
    word = "md5((hash({0}, {1}) % (1 + hash({0}, {2}) % 300000))::VARCHAR)[:6]"
    words = " || ' ' || ".join(word.format("place", n, n + 40) for n in range(8))
    entries = ", ".join(f"(hash(range, {n}) % (1 + hash(range, {n + 50}) % 500000))::INTEGER" for n in (21, 22, 23))
    query = f"""
        SELECT range AS ordinal, printf('%09d', range) AS key, md5(range::VARCHAR) AS uid,
            printf('https://images%d.example.com/2026/11/photos/%s.jpg', hash(place) % 977, md5(place::VARCHAR)[:27]) AS url,
            {words} AS caption, printf('host%d.example.org', hash(place) % 100000) AS domain,
            ((hash(range, 1) % 10000000) / 25000000)::FLOAT AS similarity, [{entries}] AS entries
        FROM (SELECT range, CASE WHEN range > 0 AND hash(range, 2) % 12 = 0 THEN hash(range, 3) % range ELSE range END AS place
              FROM range({first}, {first + count}))"""
    with duckdb.connect() as con:
        return con.sql(query).to_arrow_table()


def near(first: int, count: int, what: str) -> pa.Array:
    """Of random hashes, or random vectors, one in ten with a few of its bits or numbers changed from the row's before it."""
    rng = np.random.default_rng(first)
    if what == "vector":
        vectors = rng.normal(size=(count, DIM)).astype(np.float32)
        vectors[9::10] = vectors[8::10][: len(vectors[9::10])] + 0.1 * vectors[9::10]
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), DIM)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    hashes[9::10] = hashes[8::10][: len(hashes[9::10])]
    hashes[9::10, :4] ^= 16
    digits = hashes.tobytes().hex()
    return pa.array([digits[n : n + 64] for n in range(0, len(digits), 64)])


def make(folder: Path, total: int, what: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    plan = make_plan(config(folder, SELECTORS["exact"], 1))
    ledger = Ledger(plan.config.work)
    for unit, first in enumerate(range(0, total, UNIT_ROWS)):
        count = min(UNIT_ROWS, total - first)
        made = rows(first, count)
        write(ledger, plan.intake, unit, made.append_column(what, near(first, count, what)) if what else made)
    intake = Generation(
        number=0, intake=plan.intake.name, unit_rows=UNIT_ROWS, first_unit=0, first_ordinal=0, rows=total, sources=()
    )
    ledger.work.write("generations/00000.json", intake.model_dump_json().encode())


def write(ledger: Ledger, layer: Layer, unit: int, table: pa.Table) -> None:
    """As Ledger.commit, without its fsync."""
    path = ledger.work.path(part_path(layer, unit, 0))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    arrays = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in layer.schema]
    arrays = [a.cast(f.type) for a, f in zip(arrays, layer.schema, strict=True)]
    pq.write_table(pa.table(arrays, schema=layer.schema), path, compression="zstd", store_schema=False)


@dataclass
class Wave:
    name: str
    tasks: int = 0
    seconds: float = 0.0  # of CPU
    most: int = 0  # bytes


@dataclass
class Waves:
    """Calls tasks in one process of its own, and remembers what they took."""

    pool: ProcessPoolExecutor
    folder: Path
    waves: list[Wave] = field(default_factory=list)
    files: int = 0  # bytes, at most

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        wave = Wave(type(function).__name__)
        self.waves.append(wave)
        for item in items:
            result, seconds, most = self.pool.submit(measured, function, item).result()
            wave.tasks, wave.seconds, wave.most = wave.tasks + 1, wave.seconds + seconds, max(wave.most, most)
            yield result
        self.files = max(self.files, sum(path.stat().st_size for path in self.folder.rglob("spill-*/**/*") if path.is_file()))


def measured(function: Callable[[Any], Any], item: Any) -> tuple[Any, float, int]:
    """What it gives, CPU seconds, and the most memory of its own that this process had."""
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, own_memory())

    looking = threading.Thread(target=look)
    looking.start()
    begun = time.process_time()
    result = function(item)
    seconds = time.process_time() - begun
    done.set()
    looking.join()
    return result, seconds, max(most, own_memory())


def own_memory() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def play(folder: Path, name: str, partitions: int) -> None:
    """Dealt out, or with one partition by this process alone."""
    given = config(folder, {**SELECTORS, **NEAR}[name], partitions)
    plan, ledger = make_plan(given), Ledger(given.work)
    generations = read_generations(ledger)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        waves = Waves(pool, Path(given.work))
        with Cut(plan, ledger, generations, deal=Deal(waves.map, "local")) as cut:
            _, seconds, most = measured(cut.play, len(plan.steps))
            gone = cut.rows - cut.stops().get(None, 0)
    total = sum(wave.seconds for wave in waves.waves) + seconds
    rate = f"{cut.rows / total:,.0f} rows a CPU second" if total else ""
    print(f"{name}, {partitions} partitions: {gone:,} rows go, {total:.1f} s of CPU, {rate}, files {waves.files / 1e6:,.0f} MB")
    print(f"    driver: {seconds:.1f} s of CPU, {most / 1e6:.0f} MB")
    for wave in waves.waves:
        print(f"    {wave.name}: {wave.tasks} tasks, {wave.seconds:.1f} s, at most {wave.most / 1e6:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", default="/tmp/pairsift-dealt")
    parser.add_argument("--partitions", type=int, help="default: one for each four million rows, two at least")
    parser.add_argument("--only", nargs="*", choices=[*SELECTORS, *NEAR], help="rules to play on the ledger that is there")
    parser.add_argument("--make", choices=["phash", "vector"], help="with a column for near duplicates")
    given = parser.parse_args()
    folder = Path(given.folder)
    if not given.only:
        make(folder, given.rows, given.make)
    for name in given.only or ([name for name in NEAR if name.startswith(NEAR_BY[given.make])] if given.make else SELECTORS):
        play(folder, name, given.partitions or max(2, -(-given.rows // 4_000_000)))


if __name__ == "__main__":
    main()
