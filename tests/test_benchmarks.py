"""The benchmarks that need no data from outside still run: each once, on next to nothing. Their figures are not looked at."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    "command",
    [
        "pack.py --folder {folder} --sizes 20 --rows 1000 --shard-rows 250 --repeats 1",
        "scale.py metadata --rows 1000 --folder {folder}",
        "scale.py images --rows 200 --folder {folder}",
        "scale.py units --rows 200 --folder {folder}",
        "recut.py --folder {folder}/recut --rows 3000 --repeats 1",
        "reshard.py --folder {folder}/reshard --rows 100 --shards 2 --image-bytes 1000 --repeats 1",
        "dedup.py exact --rows 1000 --folder {folder}",
        "dealt.py --rows 2000 --folder {folder}/dealt",
    ],
    ids=lambda command: "-".join(command.split()[:2]).replace("-{folder}", "").replace("---folder", ""),
)
def test_benchmark_runs(command: str, tmp_path: Path) -> None:
    script, *arguments = command.format(folder=tmp_path).split()
    run = subprocess.run([sys.executable, BENCHMARKS / script, *arguments], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert any(letter.isdigit() for letter in run.stdout), "no figure is printed"
