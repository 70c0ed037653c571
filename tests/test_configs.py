"""Every config that ships can be loaded and planned."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    "status": "success",
    "key": "000000000",
}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


RECIPES = [path for path in CONFIGS if path.stem != "quickstart"]  # that one is run by `pairsift demo`


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_its_source_and_what_it_leaves_out(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r"https://\S+|it is no published recipe", head)
    assert "# Left out: " in head


def test_every_recipe_is_run() -> None:
    """With rows that its rules have something to say about."""
    tests = "".join((ROOT / "tests" / f"test_{name}.py").read_text(encoding="utf-8") for name in ("recipes", "published_rules"))
    assert [path.stem for path in RECIPES if f'"{path.stem}"' not in tests] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_plans(
    path: Path,
    tmp_path: Path,
    tiny_clip: Callable[[int], str],
    tiny_blip: str,
    tiny_wordnet: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = {"wordnet": str(tiny_wordnet), "text_model": "null", **_small_files(tmp_path)}
    changes = [f"input.{name}={value}" for name, value in _small_input(written["input"], tmp_path).items()]
    for i, item in enumerate(written["stages"]):
        small = {"model": tiny_blip if item["use"] == "score.matching" else tiny_clip(0), **files}
        changes += [f"stages.{i}.{name}={value}" for name, value in small.items() if item.get(name, "embedded") != "embedded"]
    config = load_config(path, changes)
    assert [entry.use for entry in config.stages] == [item["use"] for item in written["stages"]]
    assert Path(config.output).is_absolute()
    plan = make_plan(config)
    assert len(plan.steps) == len(written["stages"])
    again = load_config(dump(config))
    assert make_plan(again).cut_fingerprint() == plan.cut_fingerprint()


def _small_input(entry: dict[str, Any], folder: Path) -> dict[str, str]:
    """Files of one row with the columns that the input names, and the parameters that say where they are."""
    if entry["use"] in ("read.webdataset", "read.img2dataset"):
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name, data in (("000000000.jpg", b"\xff\xd8"), ("000000000.json", json.dumps(_SAMPLE).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        pq.write_table(pa.Table.from_pylist([_SAMPLE]), folder / "0.parquet")
        return {"path": str(folder / "0.tar")}
    names = (entry.get("columns") or {"url": "url", "caption": "caption"}).values()
    columns = [*names, *(entry.get("extra") or [])]
    pq.write_table(pa.table({name: [_SAMPLE.get(name.lower(), "x")] for name in columns}), folder / "urls.parquet")
    vectors: dict[str, Any] = {name: np.eye(1, 8, dtype=np.float16) for name in (entry.get("vectors") or {}).values()}
    np.savez(folder / "urls.npz", **vectors)
    found = {"path": str(folder / "urls.parquet")}
    return found | {"folder": str(folder)} if "folder" in entry else found


def _small_files(folder: Path) -> dict[str, str]:
    """Parameters of stages that name a file which would have to be fetched, and something tiny in its place."""
    files = {
        "path": "list.json",
        "centroids": "centroids.npy",
        "listed": "listed.txt",
        "reference": "reference.txt",
        "synsets": "synsets.txt",
    }
    (folder / files["path"]).write_text(json.dumps(["0" * 32]))  # a query, a domain, an md5
    np.save(folder / files["centroids"], np.eye(3, 8, dtype=np.float32))
    (folder / files["listed"]).write_text("1\n")
    (folder / files["reference"]).write_text("0" * 64)  # a hash
    (folder / files["synsets"]).write_text("n02084071\n")
    return {name: str(folder / file) for name, file in files.items()}
