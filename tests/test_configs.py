"""Every config that ships can be loaded and planned."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pairsift.pipeline.config import load_config
from pairsift.pipeline.plan import make_plan
from pairsift.pipeline.report.manifest import dump

ROOT = Path(__file__).resolve().parents[1]
# What inputs know of a row, by the names of their columns in lower case; all else is text.
_SAMPLE = {
    "url": "http://example.com/1.jpg",
    "caption": "a cat",
    **dict.fromkeys(("width", "height", "original_width", "original_height"), 640),
    **dict.fromkeys(("similarity", "clip_b32_similarity_score", "clip_l14_similarity_score"), 0.3),
    "aesthetic": 5.0,
    "punsafe": 0.1,
    "pwatermark": 0.1,
    "sha256": "0" * 64,
}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_plans(
    path: Path, tmp_path: Path, tiny_clip: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = load_config(
        path, [f"input.path={_small_input(written['input'], tmp_path)}", *_small_files(written, tiny_clip, tmp_path)]
    )
    assert [entry.use for entry in config.stages] == [item["use"] for item in written["stages"]]
    assert Path(config.output).is_absolute()
    plan = make_plan(config)
    assert len(plan.steps) == len(written["stages"])
    again = load_config(dump(config))
    assert make_plan(again).cut_fingerprint() == plan.cut_fingerprint()


def _small_input(entry: dict[str, Any], folder: Path) -> str:
    """A file of one row with the columns that the input names."""
    if entry["use"] == "read.webdataset":
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name, data in (("0.jpg", b"\xff\xd8"), ("0.json", json.dumps(_SAMPLE).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(folder / "0.tar")
    names = (entry.get("columns") or {"url": "url", "caption": "caption"}).values()
    columns = [*names, *(entry.get("extra") or [])]
    pq.write_table(pa.table({name: [_SAMPLE.get(name.lower(), "x")] for name in columns}), folder / "urls.parquet")
    return str(folder / "urls.parquet")


def _small_files(written: dict[str, Any], tiny_clip: Callable[[int], str], folder: Path) -> list[str]:
    """Overrides that put something tiny in place of checkpoints and lists, which would have to be fetched."""
    (folder / "queries.json").write_text('["cat", "dog"]')
    found = []
    for i, item in enumerate(written["stages"]):
        if item["use"] == "embed" and item["model"] != "embedded":
            found.append(f"stages.{i}.model={tiny_clip(0)}")
        if item["use"] == "text.entries":
            found.append(f"stages.{i}.path={folder / 'queries.json'}")
    return found
