"""`embed` inside a whole run, beside the bare model: CLIP ViT-B/32, real photos and captions from webdataset shards.

    python benchmarks/embed_in_run.py DATA                      # folder with captions.tsv (header, then file TAB caption)
    python benchmarks/embed_in_run.py DATA --pairs 512 --bare-pairs 128    # some 10 minutes, reckoned, on two idle CPUs
    python benchmarks/embed_in_run.py DATA --repeats 3          # on a busy machine: look at the CPU times

Photos are stored at 256 pixels in tars, with their captions, as `download` stores them. A turn is: the bare model
(of transformers, in the stage's dtype, tensors made before, batches as in a unit), a run on the local runner, bare, a run
on Ray, bare. The first turn is not counted. What counts of a run is its steady state: from the moment its first unit
is committed to the moment its last one is, everything that a run does included: reading tars, decoding, layers, Ray. Start,
planning, loading the model and packing are outside of it. Each is compared with the mean of the bare passes around it.
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import transformers
from embed import bare, load, load_pairs, stage, write_checkpoint

import pairsift
from pairsift.stages.embed.dual import DualEncoder

LOOK_SECONDS = 0.05


class Rate(NamedTuple):
    pairs: float  # a second, by the clock
    cpu: float  # seconds of CPU a pair, of all processes


def write_shards(folder: Path, table: pa.Table, rows: int) -> None:
    for start in range(0, len(table), rows):
        with tarfile.open(folder / f"{start // rows:05d}.tar", "w") as tar:
            for row, pair in enumerate(table.slice(start, rows).to_pylist(), start):
                for name, data in ((f"{row:09d}.jpg", pair["image"]), (f"{row:09d}.txt", pair["caption"].encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def cpu_seconds() -> float:
    """Of this process and all that came of it and still lives: Ray's services and workers among them."""
    parents, spent = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)], spent[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return sum(ticks for process, ticks in spent.items() if is_ours(process)) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Looks at a run's layer of vectors while it grows."""

    def __init__(self, output: Path, unit: int) -> None:
        self._output, self._unit = output, unit
        self._seen: list[tuple[int, float, float]] = []  # units committed, by when, CPU seconds until then
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            done = sum(1 for _ in self._output.rglob("layers/embed-*/**/*.parquet"))
            if done and (not self._seen or done > self._seen[-1][0]):
                self._seen.append((done, time.perf_counter(), cpu_seconds()))

    def rate(self) -> Rate:
        (first, began, cpu_before), (last, ended, cpu_after) = self._seen[0], self._seen[-1]
        pairs = (last - first) * self._unit
        return Rate(pairs / (ended - began), (cpu_after - cpu_before) / pairs)


def run(shards: Path, model: Path, options: argparse.Namespace, runner: str) -> Rate:
    with tempfile.TemporaryDirectory() as output:
        config = {
            "input": {"use": "read.webdataset", "path": f"{shards}/*.tar", "unit_rows": options.unit},
            "stages": [
                {
                    "use": "embed",
                    "model": str(model),
                    "dtype": options.dtype,
                    "resources": {"cpus": options.threads, "workers": 1},
                }
            ],
            "output": f"{output}/out",
        }
        with Watch(Path(output), options.unit) as watch:
            pairsift.run(config, runner=runner)
        return watch.rate()


def bare_rate(pass_: Callable[[pa.Table], None], table: pa.Table) -> Rate:
    began, cpu = time.perf_counter(), cpu_seconds()
    pass_(table)
    return Rate(len(table) / (time.perf_counter() - began), (cpu_seconds() - cpu) / len(table))


def take_turns(
    ways: dict[str, Callable[[], Rate]], pass_: Callable[[], Rate], repeats: int
) -> dict[str, list[tuple[Rate, Rate]]]:
    """By way: its rate, and the bare model's around it."""
    found: dict[str, list[tuple[Rate, Rate]]] = {name: [] for name in ways}
    before = pass_()
    for turn in range(repeats + 1):
        for name, way in ways.items():
            rate, after = way(), pass_()
            around = Rate((before.pairs + after.pairs) / 2, (before.cpu + after.cpu) / 2)
            before = after
            if turn:
                found[name].append((rate, around))
                print(f"  turn {turn}: {name} {rate.pairs / around.pairs:.3f} x bare", flush=True)
    return found


def print_found(found: dict[str, list[tuple[Rate, Rate]]]) -> None:
    for name, turns in found.items():
        shares = sorted(rate.pairs / around.pairs for rate, around in turns)
        cpu = sorted(around.cpu / rate.cpu for rate, around in turns)
        pairs = statistics.median(rate.pairs for rate, _ in turns)
        print(
            f"{name:6} {pairs:7.2f} pairs/s, bare {statistics.median(around.pairs for _, around in turns):.2f}: "
            f"{statistics.median(shares):.3f} x bare ({shares[0]:.3f} to {shares[-1]:.3f}, {len(turns)} turns); "
            f"CPU {statistics.median(rate.cpu for rate, _ in turns) * 1e3:.1f} ms a pair: "
            f"{statistics.median(cpu):.3f} x bare ({cpu[0]:.3f} to {cpu[-1]:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of `embed` in a whole run, beside the bare model.")
    parser.add_argument("data", type=Path, help="folder with photos and captions.tsv")
    parser.add_argument("--pairs", type=int, default=768)
    parser.add_argument("--unit", type=int, default=128, help="rows per unit")
    parser.add_argument("--bare-pairs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--lean", action="store_true", help="bare: the stage's own leaner forward pass")
    parser.add_argument("--runners", default="local,ray")
    options = parser.parse_args()

    quiet: Any = transformers.utils.logging
    quiet.disable_progress_bar()
    table = load_pairs(options.data, options.pairs)
    with tempfile.TemporaryDirectory() as scratch:
        shards, model = Path(scratch, "shards"), Path(scratch, "model")
        shards.mkdir()
        model.mkdir()
        write_shards(shards, table, options.pairs // 2)
        write_checkpoint(model, table["caption"].to_pylist())
        torch.set_num_threads(options.threads)
        name = stage(model, options.dtype, options.threads)._number_format()  # noqa: SLF001
        encoder = DualEncoder(model, "cpu", name)
        network = encoder.model if options.lean else load(model, getattr(torch, name))
        pairs = table.slice(0, options.bare_pairs)
        units = [bare(network, encoder, pairs.slice(start, options.unit)) for start in range(0, len(pairs), options.unit)]

        def pass_(of: pa.Table) -> None:
            for unit in units:
                unit(of)

        ways: dict[str, Callable[[], Rate]] = {
            runner: lambda runner=runner: run(shards, model, options, runner)  # type: ignore[misc]
            for runner in options.runners.split(",")
        }
        print(f"{len(table)} pairs, units of {options.unit}, {options.threads} threads, {name}, load {os.getloadavg()[0]:.1f}")
        print_found(take_turns(ways, lambda: bare_rate(pass_, pairs), options.repeats))


if __name__ == "__main__":
    main()
