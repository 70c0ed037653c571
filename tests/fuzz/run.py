"""Fuzz what reads strangers' bytes, for as long as you like: `python tests/fuzz/run.py --seconds 600 --seed 7`.

A case that raises what it should not, takes more than 2 s of CPU or 400 MB, or kills its process is printed with its number,
and its input is written to the folder `--keep`. `tests/fuzz/test_fuzz.py` runs a few thousand cases of seed 0.
"""

import argparse
import mmap
import os
import resource
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "stages" / "download")]

from targets import TARGETS, case  # noqa: E402 - found by the line above

CPU_SECONDS = 2.0
MEGABYTES = 400
CASES_PER_PROCESS = 3000


def attempt(target: str, seed: int, number: int) -> str | None:
    """What is wrong with a case, or None."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    try:
        TARGETS[target](seed, number)
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        return "".join(traceback.format_exception(*sys.exc_info(), limit=-2, chain=False))
    seconds = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if seconds > CPU_SECONDS:
        return f"took {seconds:.1f} s of CPU"
    return f"took {grown:.0f} MB" if grown > MEGABYTES else None


def child(target: str, seed: int, first: int, until: float, shared: mmap.mmap, keep: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders written in C complain there
    for number in range(first, first + CASES_PER_PROCESS):
        shared[:8] = struct.pack("<Q", number)
        wrong = attempt(target, seed, number)
        if wrong:
            report(target, seed, number, wrong, keep)
        if time.monotonic() > until:
            return


def report(target: str, seed: int, number: int, wrong: str, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"{target}-{seed}-{number}"
    data = case(target, seed, number)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    sys.stdout.write(f"{target} --seed {seed} case {number}: {wrong.strip()}\n  input: {path}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    args = parser.parse_args()
    shared = mmap.mmap(-1, 8)
    done: Counter[str] = Counter()
    deaths = 0
    stop = time.monotonic() + args.seconds
    while time.monotonic() < stop:
        for target in args.targets:
            until = min(stop, time.monotonic() + args.seconds / len(args.targets) / 4)
            first = done[target]
            pid = os.fork()
            if pid == 0:
                child(target, args.seed, first, until, shared, args.keep)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            number = struct.unpack("<Q", shared[:8])[0]
            done[target] = number + 1
            if status:
                deaths += 1
                report(target, args.seed, number, f"killed its process: status {status}", args.keep)
    sys.stdout.write(", ".join(f"{target}: {count} cases" for target, count in done.items()) + "\n")
    return 1 if deaths or (args.keep.is_dir() and any(args.keep.iterdir())) else 0


if __name__ == "__main__":
    sys.exit(main())
