"""How long it takes to filter and reshard a dataset that exists, by scores that it has: beside DataComp's resharder, and `cat`.

    python benchmarks/reshard.py --folder /tmp/reshard --resharder /path/to/datacomp/resharder.py

makes a pool as DataComp's download leaves it (img2dataset's writer: tars, JSON with uid and score, Parquet beside), and runs in
turn, each in processes of its own, on one core's worth of workers:

    cat             all tars into one file
    resharder       DataComp's, -j 1, given the subset file of the rows to keep
    webdataset      pairsift with read.webdataset, the local runner: intake, cut, fates, shards
    img2dataset     the same with read.img2dataset, which takes the Parquet and reads no JSON
    again           the next threshold on the same work folder: cut, fates, shards

For each: seconds, seconds of CPU (with children), and input bytes per second of CPU, in parts of cat's. The resharder needs
cloudpathlib and pysimdjson: say where they are in PYTHONPATH.
"""

import argparse
import hashlib
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from webdataset import TarWriter

SCORE = "clip_l14_similarity_score"
NOISE = 4 << 20  # bytes that images are cut from


def make(folder: Path, shards: int, rows: int, image_bytes: int) -> None:
    """The pool; scores are uniform in [0, 1)."""
    rng = random.Random(0)
    noise = rng.randbytes(NOISE)
    for shard in range(shards):
        listed = [_row(rng, shard, n) for n in range(rows)]
        with TarWriter(str(folder / f"{shard:08d}.tar")) as tar:
            for row in listed:
                size = int(image_bytes * rng.uniform(0.5, 1.5))
                start = rng.randrange(NOISE - size)
                image = b"\xff\xd8\xff" + noise[start : start + size]
                row["sha256"] = hashlib.sha256(image).hexdigest()
                tar.write({"__key__": row["key"], "jpg": image, "txt": row["caption"], "json": json.dumps(row, indent=4)})
        pq.write_table(pa.Table.from_pylist(listed), folder / f"{shard:08d}.parquet")
        (folder / f"{shard:08d}_stats.json").write_text(json.dumps({"successes": rows}))


def _row(rng: random.Random, shard: int, n: int) -> dict[str, Any]:
    key = f"{shard:08d}{n:04d}"
    return {
        "uid": hashlib.md5(key.encode()).hexdigest(), SCORE: rng.random(),
        "caption": f"a photograph of thing number {n}, sold by shop {shard} — “quoted”",
        "url": f"https://host{n}.example.org/images/{key}.jpg", "key": key, "status": "success", "error_message": None,
        "width": 512, "height": 384, "original_width": 1024, "original_height": 768, "exif": "{}", "sha256": "",
    }  # fmt: skip


def subset(pool: Path, least: float, path: Path) -> int:
    """DataComp's subset file of the rows to keep; returns how many."""
    table = pa.concat_tables([pq.read_table(file, columns=["uid", SCORE]) for file in sorted(pool.glob("*.parquet"))])
    kept = [uid for uid, score in zip(*(column.to_pylist() for column in table.columns), strict=True) if score >= least]
    uids = np.array([divmod(int(uid, 16), 1 << 64) for uid in kept], np.dtype("u8,u8"))
    np.save(path, np.sort(uids))
    return len(kept)


def config(folder: Path, use: str, least: float, output: str) -> Path:
    written = {
        "input": {"use": use, "path": str(folder / "pool"), "unit_rows": 10_000},
        "output": str(folder / output),
        "work": str(folder / f"work-{use}"),
        "stages": [{"use": "filter.where", "keep": f"{SCORE} >= {least}"}],
    }
    path = folder / f"{output}.json"
    path.write_text(json.dumps(written))
    return path


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lanes(folder: Path, resharder: Path | None, keep: float) -> Iterator[tuple[str, list[str]]]:
    """Each lane and its command; what an earlier round left is removed on the way."""
    pairsift = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", "--runner", "local"]
    for path in folder.glob("out-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("work-*"):
        shutil.rmtree(path, ignore_errors=True)
    yield "cat", ["sh", "-c", f"cat {folder}/pool/*.tar > {folder}/cat.tar"]
    (folder / "cat.tar").unlink()
    if resharder:
        (folder / "out-resharder").mkdir()
        options = ["-i", folder / "pool", "-o", folder / "out-resharder", "-s", folder / "subset.npy", "-j", 1, "--overwrite"]
        yield "resharder", [sys.executable, str(resharder), *map(str, options)]
    for use in ("read.webdataset", "read.img2dataset"):
        yield use.removeprefix("read."), [*pairsift, str(config(folder, use, 1 - keep, f"out-{use}"))]
    yield "again", [*pairsift, str(config(folder, "read.webdataset", 1 - keep / 2, "out-again"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--resharder", type=Path)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rows", type=int, default=10_000, help="samples per shard")
    parser.add_argument("--image-bytes", type=int, default=50_000, help="bytes of an image, on average")
    parser.add_argument("--keep", type=float, default=0.3, help="share of the rows that is kept")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    shape = {"shards": asked.shards, "rows": asked.rows, "image_bytes": asked.image_bytes}
    pool = asked.folder / "pool"
    if not (asked.folder / "made.json").exists() or json.loads((asked.folder / "made.json").read_text()) != shape:
        shutil.rmtree(asked.folder, ignore_errors=True)
        pool.mkdir(parents=True)
        make(pool, **shape)
        (asked.folder / "made.json").write_text(json.dumps(shape))
    kept = subset(pool, 1 - asked.keep, asked.folder / "subset.npy")
    size, rows = sum(path.stat().st_size for path in pool.glob("*.tar")), asked.shards * asked.rows
    print(f"{rows:,} samples, {size / 1e9:.2f} GB, {kept:,} kept; medians of {asked.repeats} (lowest to highest)", flush=True)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(asked.repeats):
        for name, command in lanes(asked.folder, asked.resharder, asked.keep):
            found.setdefault(name, []).append(timed(command))
    cat = size / np.median([cpu for _, cpu in found["cat"]])
    for name, runs in found.items():
        seconds, cpu = np.median(runs, axis=0)
        low, high = (f"{limit:.2f}" for limit in (min(run[0] for run in runs), max(run[0] for run in runs)))
        rate = f"{size / cpu / 1e6:7.0f} MB per second of CPU, {size / cpu / cat:6.1%} of cat"
        print(f"{name:12} {seconds:7.2f} s ({low} to {high})  {cpu:6.2f} s of CPU  {rate}  {cpu / rows * 1e6:6.1f} µs a sample")


if __name__ == "__main__":
    main()
