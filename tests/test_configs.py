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
from pairsift.pipeline.manifest import dump
from pairsift.pipeline.plan import make_plan

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_plans(
    path: Path, tmp_path: Path, tiny_clip: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = load_config(path, [f"input.path={_small_input(written['input'], tmp_path)}", *_small_models(written, tiny_clip)])
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
            for name, data in (("0.jpg", b"\xff\xd8"), ("0.json", json.dumps({"url": "u", "caption": "c"}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(folder / "0.tar")
    names = (entry.get("columns") or {"url": "url", "caption": "caption"}).values()
    pq.write_table(pa.table({name: ["x"] for name in [*names, *(entry.get("extra") or [])]}), folder / "urls.parquet")
    return str(folder / "urls.parquet")


def _small_models(written: dict[str, Any], tiny_clip: Callable[[int], str]) -> list[str]:
    """Overrides that put a tiny checkpoint in place of one that would have to be fetched."""
    models = [(i, item.get("model")) for i, item in enumerate(written["stages"]) if item["use"] == "embed"]
    return [f"stages.{i}.model={tiny_clip(0)}" for i, model in models if model != "embedded"]
