"""`pairsift demo`: the main job on real photographs, over real HTTP, through the shipped quickstart config."""

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from pairsift.pipeline.cli import show
from pairsift.pipeline.config import load_config
from pairsift.pipeline.demo import listing, photos
from pairsift.pipeline.demo.server import serve
from pairsift.pipeline.report.progress import OnTerminal
from pairsift.pipeline.run import Options, run
from pairsift.stages.base import ConfigError

THRESHOLD = 0.15  # of the demonstration model: its card says that nine in ten matched pairs are above
_MARK = ".pairsift-demo"  # a folder with this file in it is the demo's own, and may be replaced


def demo(folder: Path, runner: str, console: Console) -> None:
    """Run the demo in `folder`, replacing an earlier one, and print what came of it."""
    served = photos.load()
    _clear(folder)
    with serve(served) as base_url:
        listed = listing.write(base_url, folder / "urls.parquet")
        console.print(f"serving {len(served)} photographs and {len(listed)} listed pairs at {base_url}", markup=False)
        config = load_config(Path(str(files("pairsift") / "configs" / "quickstart.yaml")), _overrides(folder))
        outcome = run(config, Options(runner=runner), OnTerminal())
    console.print()
    show.funnel(console, outcome.funnel)
    console.print()
    show.where(console, outcome)
    measured = listing.measure(pq.read_table(folder / "out" / "fates.parquet", use_threads=False), listed)
    console.print(f"the similarity rule {measured.sentence()}", markup=False)
    console.print(_NEXT.format(folder=folder, bin=_programs()), markup=False, soft_wrap=True)


def _programs() -> str:
    """What to put before `pairsift` and `python` so that a shell finds those that run this: nothing, or their folder."""
    folder = os.path.dirname(sys.executable)
    return "" if shutil.which("pairsift") == os.path.join(folder, "pairsift") else f"{os.path.relpath(folder)}/"


def _overrides(folder: Path) -> list[str]:
    """What differs from the quickstart: where things are, a server on loopback, the model that needs no hub."""
    return [
        f"input.path={folder / 'urls.parquet'}",
        "input.unit_rows=40",
        f"output={folder / 'out'}",
        "stages.2.timeout=3",
        "stages.2.allow_private_addresses=true",
        "stages.4.model=embedded",
        f"stages.6.keep=clip_similarity >= {THRESHOLD}",
        "shards.rows=25",
    ]


def _clear(folder: Path) -> None:
    if folder.exists():
        if any(folder.iterdir()) and not (folder / _MARK).exists():
            raise ConfigError(f"{folder}: holds something that is not an earlier demo; name another place with --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()


_QUERY = "SELECT status, code, count(*) FROM fates GROUP BY ALL"
_SAMPLES = "wds.WebDataset('{folder}/out/shards/00000.tar', shardshuffle=False)"
_NEXT = f"""
Try next:
  {{bin}}pairsift status {{folder}}/out
  {{bin}}python -c "import pairsift; print(pairsift.open('{{folder}}/out').sql('{_QUERY}'))"
  {{bin}}python -c "import webdataset as wds; [print(s['__key__'], s['txt'].decode()) for s in {_SAMPLES}]"
"""
