"""Does memory stay flat, and time linear, as the input grows? Runs of a tenth, a third and the whole, side by side.

    python benchmarks/scale.py metadata                 # 100,000 to 1,000,000 rows: filter, duplicates, top 30 %, fates
    python benchmarks/scale.py images --folder /dev/shm # 20,000 to 200,000 images of 20 KB: payloads, layers, shards
    python benchmarks/scale.py images --runner ray
    python benchmarks/scale.py units                    # a million units, made up: plan, go on with a run, run once more

Each run is a process of its own. Its memory is what is its own (RssAnon), looked at fifty times a second: the driver's, and the
largest of its workers'. The images come from a stage that makes them up at no cost, so what is measured is what pairsift does
with them: sub-batches, payload tars, layers, the cut, shards. `--plot FILE.svg` draws both. For `units`, see made_units.py.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import made_units
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform

ROWS = {"metadata": 1_000_000, "images": 200_000, "units": made_units.UNIT_ROWS * 1_000_000}
SHARES = (0.1, 0.3, 1.0)
IMAGE_BYTES = 20_000
JPEG = b"\xff\xd8"  # how one begins
MARK = "PAIRSIFT_BENCHMARK"
_LOOK_SECONDS = 0.02  # between two looks at memory
_LOOKS_FOR_PROCESSES = 20  # looks at memory to one for new processes


class MadeUp(Stage):
    """Images that no decoder would take: bytes that depend on the row."""

    image_bytes: int = IMAGE_BYTES

    def reads(self) -> Columns:
        return ("ordinal",)

    def writes(self) -> pa.Schema:
        return pa.schema([schema.IMAGE, schema.IMAGE_FORMAT, schema.WIDTH, schema.HEIGHT])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        size = self.image_bytes
        noise = np.random.default_rng(0).bytes(4 * size)

        def transform(batch: pa.Table) -> pa.Table:
            rows = batch["ordinal"].to_pylist()
            images = [JPEG + noise[row % size :][: size - len(JPEG)] for row in rows]
            sides = pa.array([256] * len(rows), schema.WIDTH.type)
            columns = [pa.array(images, schema.IMAGE.type), pa.array(["jpg"] * len(rows)), sides, sides]
            return pa.table(columns, schema=self.writes())

        yield transform


@dataclass
class Run:
    """One run. Memory in bytes."""

    rows: int
    seconds: float
    rows_per_second: float
    driver: int
    worker: int


@dataclass
class Found:
    """Of one process: seconds by the clock and of CPU; the most memory, in bytes, of it and of the largest that it started."""

    seconds: float
    cpu: float
    driver: int
    worker: int


def listing(folder: Path, rows: int) -> Path:
    """A list with a score a row, and some captions more than once."""
    path = folder / f"list-{rows}.parquet"
    rng = np.random.default_rng(rows)
    with pq.ParquetWriter(path, pa.schema({"url": pa.string(), "caption": pa.string(), "quality": pa.float32()})) as writer:
        for start in range(0, rows, 100_000):
            ordinals = range(start, min(start + 100_000, rows))
            urls = [f"http://host{i % 5000}.example/{i % (rows - rows // 50)}.jpg" for i in ordinals]
            captions = [f"a photograph, number {i}, of something that somebody saw" for i in ordinals]
            scores = rng.normal(0.25, 0.08, len(ordinals)).astype(np.float32)
            writer.write_table(pa.table({"url": urls, "caption": captions, "quality": scores}))
    return path


def config(kind: str, source: Path, output: Path, image_bytes: int = IMAGE_BYTES) -> dict[str, Any]:
    rules = [
        {"use": "filter.where", "keep": "quality >= 0.1"},
        {"use": "dedup.exact", "by": ["url"]},
        {"use": "select.top_fraction", "by": "quality", "fraction": 0.3},
    ]
    return {
        "input": {
            "use": "read.urls",
            "path": str(source),
            "unit_rows": 10_000 if kind == "metadata" else 1000,
            "extra": ["quality"],
        },
        "output": str(output),
        "stages": rules if kind == "metadata" else [{"use": "scale", "image_bytes": image_bytes}],
    }


def measure(kind: str, rows: int, runner: str, folder: Path, image_bytes: int) -> Run:
    """One run of so many rows."""
    source = listing(folder, rows)
    output = folder / f"out-{rows}"
    counted, found = command("run", config(kind, source, output, image_bytes), folder, "--runner", runner)
    if sum(counted["counts"].values()) != rows:
        sys.exit(f"{counted['counts']} do not add up to {rows}")
    shutil.rmtree(output)
    source.unlink()
    return Run(rows, round(found.seconds, 2), round(rows / counted["seconds"], 1), found.driver, found.worker)


def command(name: str, recipe: dict[str, Any], folder: Path, *options: str) -> tuple[dict[str, Any], Found]:
    """What a command of pairsift answers in a process of its own, looked at while it lasts."""
    file = folder / "config.json"
    file.write_text(json.dumps(recipe))
    arguments = [sys.executable, "-m", "pairsift.pipeline.cli.main", name, str(file), *options, "--json"]
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        arguments, env={**os.environ, MARK: mark, "PYTHONPATH": here}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    began, before = time.perf_counter(), cpu_of_children()
    driver, worker = watched(process, mark)
    seconds = time.perf_counter() - began
    said, complained = process.communicate()
    if process.returncode:
        sys.exit(complained.decode())
    return json.loads(said), Found(seconds, cpu_of_children() - before, driver, worker)


def cpu_of_children() -> float:
    """Seconds that processes have used which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_units(units: int, folder: Path) -> None:
    """Print what it takes to go on with a run of so many units, nearly all of which are done."""
    made_units.make(folder, units)
    recipe = made_units.config(folder)
    left, run = min(units, made_units.LEFT), ("run", "--runner", "local")
    for title, *arguments in [("plan", "plan"), (f"run, {left:,} units left", *run), ("run, none left", *run)]:
        found = command(arguments[0], recipe, folder, *arguments[1:])[1]
        memory = f"peak of its own memory {found.driver / 1e6:.0f} MB"
        print(f"{title}: {found.seconds:.1f} s, {found.cpu:.1f} s of CPU, {memory}", flush=True)


def watched(process: "subprocess.Popen[bytes]", mark: str) -> tuple[int, int]:
    """Until it has ended: the most memory that it had, and that any other process with this mark had, in bytes."""
    most: dict[int, int] = {}
    looks = 0
    while process.poll() is None:
        if looks % _LOOKS_FOR_PROCESSES == 0:
            most |= {pid: 0 for pid in processes(mark) if pid not in most}
        for pid in most:
            most[pid] = max(most[pid], memory(pid))
        looks += 1
        time.sleep(_LOOK_SECONDS)
    return most.pop(process.pid, 0), max(most.values(), default=0)


def processes(mark: str) -> list[int]:
    """Every process of ours with the mark in its environment that runs our code."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it has ended
                if f"{MARK}={mark}".encode() not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    continue
                name = Path(f"/proc/{entry}/cmdline").read_bytes()
                if b"raylet" not in name and b"gcs_server" not in name:
                    found.append(int(entry))
    return found


def memory(pid: int) -> int:
    """RssAnon in bytes; 0 for a process that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
    return 0


def plot(runs: list[Run], path: str, title: str) -> None:
    """Seconds, and megabytes, over rows: two charts in one SVG."""
    rows = [run.rows for run in runs]
    memory = {"driver": [run.driver / 1e6 for run in runs]}
    if any(run.worker for run in runs):
        memory["largest worker"] = [run.worker / 1e6 for run in runs]
    charts = [
        chart(0, "seconds, from start to end", rows, {"": [run.seconds for run in runs]}),
        chart(450, "peak of its own memory, MB", rows, memory),
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 340" font-family="sans-serif" font-size="13">'
    background = '<rect width="900" height="340" fill="white"/>'
    name = f'<text x="450" y="22" text-anchor="middle" font-size="16">{title}</text>'
    Path(path).write_text("\n".join([head, background, name, *charts, "</svg>\n"]))


def chart(left: int, title: str, rows: list[int], lines: dict[str, list[float]]) -> str:
    """One chart, 450 wide, from zero on both axes; a line with its points for each of `lines`, under its name."""
    width, height, x0, y0 = 350, 230, left + 65, 290
    most = max(value for values in lines.values() for value in values) * 1.1
    drawn = [
        f'<text x="{x0}" y="48">{title}</text>',
        f'<path d="M{x0} {y0 - height}V{y0}H{x0 + width}" fill="none" stroke="black"/>',
    ]
    for share in (0.25, 0.5, 0.75, 1):
        y = round(y0 - height * share)
        drawn.append(f'<path d="M{x0} {y}h{width}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{most * share:,.0f}</text>')
    for count in rows:
        x = x0 + width * count / max(rows)
        drawn.append(f'<text x="{x:.0f}" y="{y0 + 18}" text-anchor="middle">{count:,}</text>')
    for colour, (name, values) in zip(("#1f5fa8", "#c0504d"), lines.items(), strict=False):
        points = [(x0 + width * r / max(rows), y0 - height * v / most) for r, v in zip(rows, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        drawn.append(
            f'<text x="{points[-1][0] - 4:.0f}" y="{points[-1][1] - 8:.0f}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    return "\n".join(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(ROWS))
    parser.add_argument("--rows", type=int, help="of the largest run")
    parser.add_argument("--runner", default="local", choices=["local", "ray"])
    parser.add_argument("--image-bytes", type=int, default=IMAGE_BYTES)
    parser.add_argument("--folder", help="where to work; the images want twice their size")
    parser.add_argument("--plot", metavar="FILE.svg")
    asked = parser.parse_args()
    most = asked.rows or ROWS[asked.kind]
    runs = []
    if asked.kind == "units":
        with tempfile.TemporaryDirectory(prefix="pairsift-scale-", dir=asked.folder) as folder:
            measure_units(most // made_units.UNIT_ROWS, Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="pairsift-scale-", dir=asked.folder) as folder:
        for share in SHARES:
            runs.append(measure(asked.kind, round(most * share), asked.runner, Path(folder), asked.image_bytes))
            print(json.dumps(asdict(runs[-1])), flush=True)
    first, last = runs[0], runs[-1]
    for who in ("driver", "worker"):
        if getattr(first, who):
            growth = getattr(last, who) / getattr(first, who) - 1
            print(f"{who}: {growth:+.1%} memory at {last.rows / first.rows:.0f} times the rows")
    if asked.plot:
        plot(runs, asked.plot, f"{asked.kind}, {asked.runner} runner")


if __name__ == "__main__":
    main()
