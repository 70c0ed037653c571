"""Proofs that the contracts are right. Each is a promise of the README; each stays."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.run import Options, Outcome, run

RUNNERS = ["local", "ray"]
THUMBNAIL = {"use": "download", "image_size": 64, "allow_private_addresses": True, "timeout": 20, "retries": 0}


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


def write_list(path: Path, rows: list[tuple[str | None, str | None]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"url": [url for url, _ in rows], "caption": [caption for _, caption in rows]}), path)
    return str(path)


def photo_rows(web: Any, count: int) -> list[tuple[str | None, str | None]]:
    """Distinct URLs over the photos there are; every seventh is a 404."""
    names = sorted(web.files)
    return [
        (web.url(f"{names[i % len(names)] if i % 7 else 'missing.jpg'}?{i}"), f"caption number {i} of a photo")
        for i in range(count)
    ]


def recipe(path: str, output: Path, *stages: dict[str, Any], unit_rows: int = 5, **rest: Any) -> dict[str, Any]:
    return {
        "input": {"use": "read.urls", "path": path, "unit_rows": unit_rows},
        "output": str(output),
        "stages": list(stages),
        **rest,
    }


def where(keep: str) -> dict[str, Any]:
    return {"use": "filter.where", "keep": keep}


def embed(model: str) -> list[dict[str, Any]]:
    return [{"use": "embed", "model": model}, {"use": "score.clip_similarity"}]


def go(config: dict[str, Any], runner: str = "local", **options: Any) -> Outcome:
    outcome = run(load_config(config), Options(runner=runner, **options))
    assert_adds_up(Path(config["output"]), outcome)
    return outcome


def assert_adds_up(output: Path, outcome: Outcome) -> None:
    """Every input row has one fate, the counts of fates sum to the input, and the shards hold exactly the kept."""
    fates = pq.read_table(output / "fates.parquet")
    assert fates["ordinal"].to_pylist() == list(range(outcome.funnel.rows))
    assert sum(outcome.report["counts"].values()) == outcome.funnel.rows
    kept = fates.filter(pc.equal(fates["status"], "success"))
    assert len(kept) == outcome.funnel.kept == outcome.report["counts"]["success"]
    for shard in sorted((output / "shards").glob("*.parquet")):
        mine = kept.filter(pc.equal(kept["shard"], shard.stem))["key"].to_pylist()
        assert pq.read_table(shard)["key"].to_pylist() == mine
        assert tar_keys(shard.with_suffix(".tar")) == mine


def tar_keys(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return list(dict.fromkeys(name.split(".")[0] for name in tar.getnames()))


def tree(output: Path) -> dict[str, str]:
    """What must be reproducible: shards and fates."""
    files = [*sorted((output / "shards").iterdir()), output / "fates.parquet"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def fate_of(output: Path, ordinal: int) -> dict[str, Any]:
    fates = pq.read_table(output / "fates.parquet").to_pylist()
    return dict(fates[ordinal])


def test_both_runners_give_the_same_bytes(tmp_path: Path, web: Any, tiny_clip: Callable[[int], str], ray_session: None) -> None:
    rows = photo_rows(web, 23)
    path = write_list(tmp_path / "urls.parquet", [*rows, rows[3], (None, "a row without a URL"), rows[4]])
    stages = [
        where("length(caption) >= 7"),
        {"use": "dedup.exact", "by": ["url"]},
        THUMBNAIL,
        *embed(tiny_clip(0)),
        where("clip_similarity > -2"),
    ]
    for name in RUNNERS:
        outcome = go(recipe(path, tmp_path / name, *stages, shards={"rows": 8}), name)
        assert outcome.funnel.kept > 10
    assert tree(tmp_path / "local") == tree(tmp_path / "ray")
    statuses = pc.value_counts(pq.read_table(tmp_path / "ray" / "fates.parquet")["status"]).to_pylist()
    assert {s["values"]: s["counts"] for s in statuses} == {"success": 19, "failed_to_download": 5, "duplicate": 2}


def test_stages_with_other_resources_get_workers_of_their_own(
    tmp_path: Path, web: Any, tiny_clip: Callable[[int], str], ray_session: None
) -> None:
    """The unit, its images among it, passes from one pool of workers to the next."""
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 11))
    small = {"resources": {"cpus": 0.5, "workers": 1}}
    stages = [THUMBNAIL | small, *(stage | {"resources": {"cpus": 1, "workers": 1}} for stage in embed(tiny_clip(0)))]
    go(recipe(path, tmp_path / "ray", *stages), "ray")
    go(recipe(path, tmp_path / "local", *stages), "local")
    assert tree(tmp_path / "local") == tree(tmp_path / "ray")


def test_many_shards_are_all_written(tmp_path: Path, web: Any, runner: str) -> None:
    """More shards than tasks that run at a time."""
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 40))
    outcome = go(recipe(path, tmp_path / "out", THUMBNAIL, shards={"rows": 2}), runner)
    assert outcome.report["shards_written"] == 17
    assert [file.stem for file in sorted((tmp_path / "out" / "shards").glob("*.tar"))] == [f"{i:05d}" for i in range(17)]


def test_a_selector_in_the_middle_spares_what_comes_after(tmp_path: Path, web: Any, runner: str) -> None:
    url = web.url("coffee.jpg")
    path = write_list(
        tmp_path / "urls.parquet", [(url, "one"), (web.url("rocket.jpg"), "two"), *[(url, f"again {i}") for i in range(12)]]
    )
    go(recipe(path, tmp_path / "out", {"use": "dedup.exact", "by": ["url"]}, THUMBNAIL), runner)
    assert sorted(web.paths()) == ["coffee.jpg", "rocket.jpg"]
    last = fate_of(tmp_path / "out", 13)
    assert (last["status"], last["duplicate_of"]) == ("duplicate", "000000000")


def test_a_tar_is_read_by_reference_and_its_bytes_are_kept(tmp_path: Path, photos: dict[str, bytes], runner: str) -> None:
    names = sorted(photos)[:7]
    source = tmp_path / "in" / "00000.tar"
    source.parent.mkdir()
    with tarfile.open(source, "w") as tar:
        for name in names:
            for suffix, data in (("jpg", photos[name]), ("txt", f"a photo of {name}".encode())):
                info = tarfile.TarInfo(f"{Path(name).stem}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    config = recipe("", tmp_path / "out", where("caption <> 'a photo of " + names[2] + "'"))
    config["input"] = {"use": "read.webdataset", "path": str(source), "unit_rows": 3}
    go(config, runner)
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        out = [hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in tar if m.name.endswith("jpg")]  # type: ignore[union-attr]
    assert out == [hashlib.sha256(photos[name]).hexdigest() for name in names if name != names[2]]
    assert not (tmp_path / "out" / "work" / "payloads").exists()


def test_a_changed_threshold_computes_nothing(tmp_path: Path, web: Any, tiny_clip: Callable[[int], str]) -> None:
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 20))
    stages = [THUMBNAIL, *embed(tiny_clip(0))]
    first = go(recipe(path, tmp_path / "out", *stages, where("clip_similarity >= -1")))
    scores = sorted(row["clip_similarity"] for row in shard_rows(tmp_path / "out"))
    asked = len(web.requests)
    middle = scores[len(scores) // 2]
    again = go(recipe(path, tmp_path / "out", *stages, where(f"clip_similarity > {middle!r}")), replace=True)
    assert len(web.requests) == asked
    assert set(again.report["rows_computed"].values()) == {0}
    assert again.funnel.kept == sum(score > middle for score in scores) < first.funnel.kept


def shard_rows(output: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((output / "shards").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_changed_model_downloads_nothing(tmp_path: Path, web: Any, tiny_clip: Callable[[int], str]) -> None:
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 9))
    go(recipe(path, tmp_path / "out", THUMBNAIL, *embed(tiny_clip(0))))
    before = [row["clip_similarity"] for row in shard_rows(tmp_path / "out")]
    asked = len(web.requests)
    go(recipe(path, tmp_path / "out", THUMBNAIL, *embed(tiny_clip(1))), replace=True)
    assert len(web.requests) == asked
    assert all(
        new != old for new, old in zip([r["clip_similarity"] for r in shard_rows(tmp_path / "out")], before, strict=True)
    )


def test_an_added_scorer_runs_alone(tmp_path: Path, web: Any, tiny_clip: Callable[[int], str]) -> None:
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 9))
    stages = [THUMBNAIL, *embed(tiny_clip(0))]
    go(recipe(path, tmp_path / "out", *stages))
    asked = len(web.requests)
    words = {"use": "pairsift_toys.words", "log": str(tmp_path / "log")}
    again = go(recipe(path, tmp_path / "out", *stages, words), replace=True)
    assert len(web.requests) == asked
    computed = again.report["rows_computed"]
    assert computed == {"download": 0, "embed": 0, "score.clip_similarity": 0, "pairsift_toys.words": 7}
    assert {row["words"] for row in shard_rows(tmp_path / "out")} == {6}


def test_a_loosened_early_filter_computes_only_what_came_alive(tmp_path: Path, web: Any, runner: str) -> None:
    path = write_list(tmp_path / "urls.parquet", [(web.url(f"coffee.jpg?{i}"), "x" * i) for i in range(12)])
    words = {"use": "pairsift_toys.words", "log": str(tmp_path / "log")}
    go(recipe(path, tmp_path / "out", where("length(caption) >= 7"), THUMBNAIL, words), runner)
    assert len(web.requests) == 5
    again = go(recipe(path, tmp_path / "out", where("length(caption) >= 4"), THUMBNAIL, words), runner, replace=True)
    assert len(web.requests) == 8
    assert again.report["rows_computed"] == {"download": 3, "pairsift_toys.words": 3}
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(4, 12))
    fresh = go(recipe(path, tmp_path / "fresh", where("length(caption) >= 4"), THUMBNAIL, words), runner)
    assert fresh.funnel.kept == 8
    assert tree(tmp_path / "fresh") == tree(tmp_path / "out")


def test_a_new_file_makes_a_new_generation(tmp_path: Path, web: Any, runner: str) -> None:
    write_list(tmp_path / "in" / "a.parquet", photo_rows(web, 12))
    config = recipe(
        str(tmp_path / "in"), tmp_path / "out", {"use": "dedup.exact", "by": ["url"]}, THUMBNAIL, shards={"rows": 4}
    )
    go(config, runner)
    old_fates = pq.read_table(tmp_path / "out" / "fates.parquet")
    old_tree, asked = tree(tmp_path / "out"), len(web.requests)
    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "shards").glob("0*")}
    write_list(
        tmp_path / "in" / "b.parquet", [*photo_rows(web, 3), (web.url("moon.jpg?new"), "new"), (web.url("cat.jpg?new"), "new")]
    )
    outcome = go(config, runner)
    assert len(web.requests) == asked + 2  # the three that the first generation had are duplicates of its rows
    fates = pq.read_table(tmp_path / "out" / "fates.parquet")
    assert fates.slice(0, 12) == old_fates
    assert len(set(fates["key"].to_pylist())) == 17
    assert {f: f.stat().st_mtime_ns for f in times} == times  # published shards are not touched
    new_tree = tree(tmp_path / "out")
    assert {name: digest for name, digest in new_tree.items() if name in old_tree and name[0] == "0"} == {
        name: digest for name, digest in old_tree.items() if name[0] == "0"
    }
    assert outcome.funnel.shards == 4
    generations = sorted((tmp_path / "out" / "work" / "generations").iterdir())
    assert [json.loads(g.read_text())["rows"] for g in generations] == [12, 5]


def test_kill_9_in_the_middle_resumes_to_the_same_bytes(tmp_path: Path, web: Any) -> None:
    web.delay = 0.1
    path = write_list(tmp_path / "urls.parquet", photo_rows(web, 60))
    config = recipe(
        path,
        tmp_path / "out",
        {"use": "dedup.exact", "by": ["url"]},
        {**THUMBNAIL, "connections": 4},
        where("width >= 60"),
        shards={"rows": 20},
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(file)]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(committed(tmp_path / "out")) < 3:
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    done = committed(tmp_path / "out")
    assert 3 <= len(done) < 12, "killed in the middle"
    times = {unit: unit.stat().st_mtime_ns for unit in done}
    time.sleep(3)  # orphaned workers die within 2.4 s of their driver
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert {unit: unit.stat().st_mtime_ns for unit in times} == times  # nothing is done twice
    shutil.rmtree(tmp_path / "undisturbed", ignore_errors=True)
    go(config | {"output": str(tmp_path / "undisturbed")})
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def committed(output: Path) -> list[Path]:
    return sorted((output / "work" / "layers").glob("download-*/*/0*.parquet"))


def bombs(tmp_path: Path, web: Any) -> dict[str, Any]:
    rows = [(web.url(f"coffee.jpg?{i}"), "a bomb" if i == 6 else f"caption {i}") for i in range(11)]
    path = write_list(tmp_path / "urls.parquet", rows)
    return recipe(path, tmp_path / "out", THUMBNAIL, {"use": "pairsift_toys.bomb"})


def assert_one_died(output: Path) -> None:
    fates = pq.read_table(output / "fates.parquet").to_pylist()
    assert [fate["status"] for fate in fates] == ["failed_to_compute" if i == 6 else "success" for i in range(11)]
    assert (fates[6]["code"], fates[6]["error_message"]) == ("process_died", "exited with 7")


def test_a_row_that_kills_its_process_gets_a_fate_on_ray(tmp_path: Path, web: Any, ray_session: None) -> None:
    go(bombs(tmp_path, web), "ray")
    assert_one_died(tmp_path / "out")


def test_a_row_that_kills_its_process_gets_a_fate_in_this_process(tmp_path: Path, web: Any) -> None:
    """The local runner has only one process to lose: the third start knows, and goes round the row."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(bombs(tmp_path, web)))
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(file), "--runner", "local"]
    codes = [
        subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode for _ in range(3)
    ]
    assert codes == [7, 7, 0]
    assert_one_died(tmp_path / "out")


def test_two_units_of_one_worker_download_at_the_same_time(tmp_path: Path, web: Any, runner: str) -> None:
    web.delay = 0.5
    path = write_list(tmp_path / "urls.parquet", [(web.url(f"coffee.jpg?{i}"), "caption") for i in range(8)])
    one = THUMBNAIL | {"resources": {"workers": 1}}
    go(recipe(path, tmp_path / "out", one, unit_rows=2), runner)
    assert web.most_at_once() > 2  # more than one unit holds
