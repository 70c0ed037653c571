"""What nobody needs goes, and nothing else: the next run computes and downloads nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.control.lock import hold
from pairsift.pipeline.upkeep.check import check
from pairsift.pipeline.upkeep.clean import Cleaning, clean
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder


def only(*paths: Any, yes: bool = True) -> Cleaning:
    [cleaning] = clean([str(path) for path in paths], yes=yes)
    return cleaning


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def freed(cleaning: Cleaning) -> set[str]:
    return {name for kind in cleaning.kinds for name in kind.files}


def smaller(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**stage, "image_size": 32} if stage["use"] == "download" else stage for stage in config["stages"]]


def test_nothing_goes_that_is_needed(output: Path, run: Callable[..., Any], web: Any) -> None:
    before = everything(output)
    assert not [kind for kind in only(output).kinds if "masks" not in kind.what]
    web.requests.clear()
    assert run().report["rows_computed"] == {"download": 0}
    after = everything(output)
    assert {name for name in before if "masks" not in name and "log" not in name} <= after.keys()
    assert web.requests == []


def test_layers_of_other_parameters(output: Path, run: Callable[..., Any], config: dict[str, Any], web: Any) -> None:
    old = {path.name for path in output.glob("work/layers/download-*")}
    run(stages=smaller(config), replace=True)
    [name] = old
    before = everything(output / "work")
    told = only(output, yes=False)
    mine = {path for path in before if f"/{name}/" in path}
    assert mine
    assert mine <= freed(told)
    assert everything(output / "work") == before
    done = only(output)
    assert (done.bytes, freed(done)) == (told.bytes, freed(told))
    assert not (output / "work" / "layers" / name).exists()
    assert not (output / "work" / "payloads" / name).exists()
    assert check(str(output), lambda _: None).problems == []
    assert run(stages=smaller(config)).report["rows_computed"] == {"download": 0}


def test_what_any_of_those_given_needs_stays(
    output: Path, run: Callable[..., Any], config: dict[str, Any], tmp_path: Path
) -> None:
    """Two outputs of one work folder; and a config that was changed since its output was made."""
    changed = {**config, "work": str(output / "work"), "stages": smaller(config)}
    run(**{**changed, "output": str(tmp_path / "small")})
    both = [kind.what for kind in only(output, tmp_path / "small", yes=False).kinds]
    assert not [what for what in both if "layer" in what and "none of these" in what]
    assert [kind.what for kind in only(output, yes=False).kinds if "none of these" in kind.what]
    (tmp_path / "config.json").write_text(json.dumps(changed))
    assert not [kind.what for kind in only(tmp_path / "config.json", yes=False).kinds if "none of these" in kind.what]


def test_what_dead_processes_left(output: Path, run: Callable[..., Any], config: dict[str, Any]) -> None:
    work = output / "work"
    [payload] = work.glob("payloads/*/*/000000001-*.tar")
    [layer] = work.glob("layers/input-*/*/000000001.parquet")
    left = {
        payload.with_name("000000001-0123456789ab.tar"),
        payload.with_name(f".{payload.name}.0123.tmp"),
        layer.with_name("000000009.parquet"),
        work / "spill-0123" / "duckdb.tmp",
        work / "stop-0123",
        work / "attempts" / "embed-0123" / "000000001",
    }
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(payload, path)
    outside = output / "shards" / ".00000.tar.0123.tmp"
    shutil.copy(payload, outside)
    only(output)
    assert not [path for path in (*left, outside) if path.exists()]
    assert payload.exists()
    assert layer.exists()
    assert not (work / "spill-0123").exists()
    assert check(str(output), lambda _: None).problems == []


def test_a_run_at_work_is_not_disturbed(output: Path) -> None:
    with hold(Folder(str(output / "work"))):
        for yes in (False, True):
            with pytest.raises(ConfigError, match=r"in use|at work"):
                only(output, yes=yes)


def test_the_command(output: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "clean"]
    done = subprocess.run([*command, str(output)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bytes would be freed" in done.stdout
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
