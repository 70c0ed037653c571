"""The command as a user meets it: a process, its output, its exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DOWNLOAD = {"use": "download", "image_size": 64, "allow_private_addresses": True}


def pairsift(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pairsift.pipeline.cli.main", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def recipe(tmp_path: Path, web: Any) -> Callable[..., str]:
    """Writes a config, with changes, beside a list of six photos, and returns its path."""
    urls = [
        web.url(f"{name}?{i}")
        for i, name in enumerate(["coffee.jpg", "moon.jpg", "missing.jpg", "rocket.jpg", "brick.jpg", "coins.jpg"])
    ]
    pq.write_table(pa.table({"url": urls, "caption": [f"caption {i}" for i in range(6)]}), tmp_path / "urls.parquet")

    def write(**changes: Any) -> str:
        config = {
            "input": {"use": "read.urls", "path": str(tmp_path / "urls.parquet"), "unit_rows": 2},
            "output": str(tmp_path / "out"),
            "stages": [{"use": "filter.where", "keep": "length(caption) > 3"}, DOWNLOAD],
            **changes,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, and one line on stderr that says all of `parts`."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pairsift: ")
    for part in parts:
        assert part in lines[0]


def test_run_plan_status(recipe: Callable[..., str], tmp_path: Path, web: Any) -> None:
    config = recipe()
    before = pairsift("plan", config)
    assert before.returncode == 0, before.stderr
    assert "to take in: 1 files" in before.stdout
    assert not (tmp_path / "out").exists(), "plan runs nothing"
    done = pairsift("run", config, "--runner", "local")
    assert done.returncode == 0, done.stderr
    assert "http_404 1" in done.stdout
    assert "6 rows in = 5 kept + 1 lost" in done.stdout
    assert "6 rows in" in done.stderr, "progress"
    after = json.loads(pairsift("plan", config, "--json").stdout)
    assert after["complete"]
    assert [step["waiting"] for step in after["steps"] if step["kind"] == "stage"] == [0]
    status = pairsift("status", str(tmp_path / "out"))
    assert "last run: 6 rows, 5 kept, 1 shards" in status.stdout
    asked = len(web.requests)
    report = json.loads(pairsift("run", config, "--runner", "local", "--json").stdout)
    assert report["counts"]["success"] == 5
    assert report["rows_computed"] == {"download": 0}
    assert report["shards_written"] == 0
    assert len(web.requests) == asked


def test_set_overrides_and_limit(recipe: Callable[..., str], tmp_path: Path) -> None:
    done = pairsift(
        "run", recipe(), "--runner", "local", "--limit", "3", "--set", "stages.0.keep=caption <> 'caption 0'", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["kept"], report["limit"]) == (3, 1, 3)
    whole = pairsift("run", recipe(), "--runner", "local", "--json")  # a limited output is no publication: no --replace
    assert json.loads(whole.stdout)["rows"] == 6


def test_a_published_cut_is_not_changed_by_surprise(recipe: Callable[..., str], tmp_path: Path) -> None:
    assert pairsift("run", recipe(), "--runner", "local").returncode == 0
    other = recipe(shards={"rows": 2})
    refused(pairsift("run", other, "--runner", "local"), "--replace", str(tmp_path / "out"))
    done = pairsift("run", other, "--runner", "local", "--replace", "--json")
    assert json.loads(done.stdout)["shards"] == 3
    assert sorted(path.name for path in (tmp_path / "out" / "shards").glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    assert pairsift("run", recipe(), "--runner", "local", "--replace").returncode == 0
    assert [path.name for path in (tmp_path / "out" / "shards").glob("*.tar")] == ["00000.tar"]


def test_unknown_stage(recipe: Callable[..., str]) -> None:
    refused(pairsift("run", recipe(stages=[{"use": "downlaod"}])), "stages[0]", "'downlaod'", "did you mean download?")


def test_misspelt_parameter(recipe: Callable[..., str]) -> None:
    refused(
        pairsift("run", recipe(stages=[{"use": "download", "image_sise": 3}])),
        "stages[0] (download)",
        "image_sise",
        "image_size?",
    )


def test_wrong_type(recipe: Callable[..., str]) -> None:
    refused(
        pairsift("run", recipe(stages=[{"use": "download", "image_size": "big"}])),
        "stages[0] (download)",
        "image_size",
        "'big'",
    )


def test_unknown_top_level_entry(recipe: Callable[..., str]) -> None:
    refused(pairsift("run", recipe(ouput="x")), "ouput", "output")


def test_missing_config(tmp_path: Path) -> None:
    refused(pairsift("run", str(tmp_path / "none.yaml")), "none.yaml", "no such config file")


def test_missing_input(recipe: Callable[..., str], tmp_path: Path) -> None:
    refused(pairsift("run", recipe(input={"use": "read.urls", "path": str(tmp_path / "none.parquet")})), "none.parquet")


def test_missing_column(recipe: Callable[..., str], tmp_path: Path) -> None:
    changed = {"use": "read.urls", "path": str(tmp_path / "urls.parquet"), "columns": {"url": "URL"}}
    refused(pairsift("run", recipe(input=changed)), "URL", "url")


def test_filter_on_a_column_nobody_writes(recipe: Callable[..., str]) -> None:
    stages = [DOWNLOAD, {"use": "filter.where", "keep": "clip_similarity > 0.3"}]
    refused(pairsift("run", recipe(stages=stages)), "stages[1] (filter.where)", "clip_similarity")


def test_filter_that_is_no_predicate(recipe: Callable[..., str]) -> None:
    refused(
        pairsift("run", recipe(stages=[{"use": "filter.where", "keep": "length(caption)"}])), "stages[0]", "length(caption)"
    )


def test_output_of_another_input(recipe: Callable[..., str], tmp_path: Path) -> None:
    assert pairsift("run", recipe(), "--runner", "local").returncode == 0
    pq.write_table(pa.table({"url": ["http://127.0.0.1/x.jpg"], "caption": ["x"]}), tmp_path / "other.parquet")
    other = recipe(input={"use": "read.urls", "path": str(tmp_path / "other.parquet"), "unit_rows": 2})
    refused(pairsift("run", other, "--runner", "local"), str(tmp_path / "out"), "another input")


def test_input_that_changed(recipe: Callable[..., str], tmp_path: Path) -> None:
    assert pairsift("run", recipe(), "--runner", "local").returncode == 0
    pq.write_table(pa.table({"url": ["http://127.0.0.1/x.jpg"], "caption": ["x"]}), tmp_path / "urls.parquet")
    refused(pairsift("run", recipe(), "--runner", "local"), "urls.parquet", "changed")


def test_model_that_is_none(recipe: Callable[..., str], tmp_path: Path) -> None:
    stages = [DOWNLOAD, {"use": "embed", "model": str(tmp_path)}]
    refused(pairsift("run", recipe(stages=stages)), "stages[1] (embed)", str(tmp_path))


def test_two_stages_with_one_column(recipe: Callable[..., str]) -> None:
    refused(pairsift("run", recipe(stages=[DOWNLOAD, DOWNLOAD])), "stages[1] (download)", "as: ")


def test_stages(recipe: Callable[..., str]) -> None:
    listed = json.loads(pairsift("stages", "--json").stdout)
    assert {"read.urls", "read.webdataset", "filter.where", "dedup.exact", "download", "embed", "score.clip_similarity"} <= {
        s["use"] for s in listed
    }
    for stage in listed:
        assert stage["summary"], stage["use"]
        assert all(parameter["text"] for parameter in stage["parameters"]), stage["use"]
    one = pairsift("stages", "download")
    assert "image_size" in one.stdout
    refused(pairsift("stages", "nonsense"), "nonsense")
