"""Shards as others read them, and beside what img2dataset writes for the same list."""

import gc
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.config import load_config
from pairsift.pipeline.run import Options, run
from pairsift.stages.base import ConfigError

OPTIONS: dict[str, Any] = {"image_size": 64, "resize_mode": "keep_ratio", "resize_only_if_bigger": True}


@pytest.fixture
def listed(tmp_path: Path, web: Any) -> Path:
    """Ten photos, a 404, a null caption, a caption that is not ASCII, and an extra column."""
    names = sorted(web.files)[:10]
    urls = [web.url(name) for name in names] + [web.url("missing.jpg")]
    captions = [f"caption {i}" for i in range(9)] + [None, "größer als 日本"]
    captions[3], captions[10] = captions[10], captions[3]
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": urls, "caption": captions, "rank": pa.array(range(11), pa.int32())}), path)
    return path


@pytest.fixture
def output(tmp_path: Path, listed: Path) -> Path:
    stages = [{"use": "download", "allow_private_addresses": True, "decode": "exact", **OPTIONS}]
    config = {
        "input": {"use": "read.urls", "path": str(listed), "unit_rows": 4},
        "output": str(tmp_path / "ours"),
        "stages": stages,
    }
    run(load_config(config | {"shards": {"rows": 6}}), Options(runner="local"))
    return tmp_path / "ours"


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars to the collector
def test_webdataset_reads_it(output: Path) -> None:
    import webdataset as wds

    shards = [str(path) for path in sorted((output / "shards").glob("*.tar"))]
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    rows = [row for path in sorted((output / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["jpg"].shape == (row["height"], row["width"], 3)
        assert sample["txt"] == (row["caption"] or "")
        assert sample["json"] == row
    del samples, sample
    gc.collect()


def test_datasets_reads_it(output: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    files = {"train": str(output / "shards" / "*.tar")}
    found = load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 10
    assert found[0]["txt"] == "caption 0"
    assert min(found[0]["jpg"].size) == 64


def test_open_clip_finds_the_sizes(output: Path) -> None:
    assert json.loads((output / "shards" / "sizes.json").read_text()) == {"00000.tar": 6, "00001.tar": 4}


def test_layout_is_img2datasets(output: Path, listed: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    run_img2dataset(listed, theirs)
    ours_tar = members(output / "shards" / "00000.tar") | members(output / "shards" / "00001.tar")
    their_tar = members(theirs / "00000.tar")
    assert sorted(ours_tar) == sorted(their_tar)
    for name, data in their_tar.items():
        if name.endswith(".json"):
            found = json.loads(ours_tar[name])
            assert {key: found[key] for key in json.loads(data)} == json.loads(data)
            assert set(found) - set(json.loads(data)) == {"uid", "original_bytes", "original_format"}
        else:
            assert ours_tar[name] == data, name
    first = [name.rpartition(".") for name in list(ours_tar)[:3]]
    assert [suffix for _, _, suffix in first] == ["jpg", "json", "txt"]
    their_schema = pq.read_schema(theirs / "00000.parquet")
    our_schema = pq.read_schema(output / "shards" / "00000.parquet")
    assert [(f.name, f.type) for f in our_schema if f.name in their_schema.names] == [(f.name, f.type) for f in their_schema]
    assert set(our_schema.names) - set(their_schema.names) == {"uid", "original_bytes", "original_format"}
    by_key = {row["key"]: row for row in pq.read_table(theirs / "00000.parquet").to_pylist() if row["status"] == "success"}
    for path in sorted((output / "shards").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert {name: row[name] for name in by_key[row["key"]]} == by_key[row["key"]]
    their_stats = json.loads((theirs / "00000_stats.json").read_text())
    our_stats = json.loads((output / "shards" / "00000_stats.json").read_text())
    assert set(their_stats) == set(our_stats) - {"digest"}
    assert {name: type(value) for name, value in their_stats.items()} == {name: type(our_stats[name]) for name in their_stats}


def run_img2dataset(listed: Path, folder: Path) -> None:
    options = dict(OPTIONS, input_format="parquet", url_col="url", caption_col="caption", output_format="webdataset")
    options |= {"processes_count": 1, "thread_count": 4, "save_additional_columns": ["rank"], "compute_hash": "sha256"}
    code = f"import img2dataset, sys; img2dataset.download(url_list=sys.argv[1], output_folder=sys.argv[2], **{options!r})"
    script = folder.with_suffix(".py")
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    done = subprocess.run([sys.executable, str(script), str(listed), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shard_that_lost_a_file_is_written_again(output: Path, listed: Path) -> None:
    before = {path.name: path.read_bytes() for path in (output / "shards").iterdir()}
    (output / "shards" / "00001.tar").unlink()
    (output / "shards" / "00000.parquet").unlink()
    results = pairsift.open(output)
    assert pairsift.run(results.config, runner="local").report["shards_written"] == 2
    assert {path.name: path.read_bytes() for path in (output / "shards").iterdir()} == before


def test_another_input_in_a_fresh_work_folder_is_packed_anew(output: Path, listed: Path) -> None:
    shutil.rmtree(output / "work")
    table = pq.read_table(listed)
    captions = pa.array([f"other {i}" for i in range(11)])
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", captions), listed)
    config = pairsift.open(output).config
    with pytest.raises(ConfigError, match="2 of the published shards would change or go, the first is 00000"):
        pairsift.run(config, runner="local")
    assert pairsift.run(config, runner="local", replace=True).report["shards_written"] == 2
    assert pq.read_table(output / "shards" / "00000.parquet")["caption"].to_pylist() == [f"other {i}" for i in range(6)]


def test_an_output_can_be_moved(output: Path, tmp_path: Path) -> None:
    before = pairsift.open(output).fates()
    moved = output.rename(tmp_path / "elsewhere")
    results = pairsift.open(moved)
    assert results.fates() == before
    assert results.ledger()["width"].null_count == 1
    assert pairsift.run(results.config, runner="local").report["shards_written"] == 0


def test_a_job_on_metadata_alone_has_fates_and_no_shards(listed: Path, tmp_path: Path) -> None:
    rule = {"use": "filter.where", "keep": "rank < 4"}
    config = {"input": {"use": "read.urls", "path": str(listed)}, "output": str(tmp_path / "out"), "stages": [rule]}
    results = pairsift.run(config, runner="local")
    assert (results.report["kept"], results.report["shards"]) == (4, 0)
    assert results.fates()["shard"].null_count == 11
    assert not (tmp_path / "out" / "shards").exists()
