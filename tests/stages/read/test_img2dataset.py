"""Shards that img2dataset itself wrote, and shards that are not as they should be."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.img2dataset import Img2dataset

SCRIPT = """
if __name__ == "__main__":
    import img2dataset, sys
    img2dataset.download(url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", url_col="url",
        caption_col="caption", output_format="webdataset", processes_count=1, thread_count=4, image_size=64,
        save_additional_columns=["uid", "rank"], compute_hash="sha256", number_sample_per_shard=5)
"""


def image_of(row: dict[str, Any]) -> bytes:
    with open(row["image_path"], "rb") as file:
        file.seek(row["image_offset"])
        return file.read(row["image_length"])


@pytest.fixture
def theirs(tmp_path: Path, web: Any) -> Path:
    """Two shards of img2dataset's: five photos, a 404, a page; beside them metadata with scores, as DataComp's."""
    web.files["page.html"] = b"<html>"
    urls = [web.url(name) for name in [*sorted(n for n in web.files if n.endswith("jpg"))[:5], "missing.jpg", "page.html"]]
    uids = [hashlib.md5(url.encode()).hexdigest() for url in urls]
    columns = {"url": urls, "caption": [*"abcde", None, "g"], "uid": uids, "rank": pa.array(range(7), pa.int16())}
    pq.write_table(pa.table(columns), tmp_path / "urls.parquet")
    (tmp_path / "metadata").mkdir()
    scores = {
        "uid": uids[::-1],
        "clip_b32_similarity_score": [0.1 * n for n in range(7)][::-1],
        "width": [7] * 7,
        "text": ["t"] * 7,
    }
    pq.write_table(pa.table(scores).slice(0, 4), tmp_path / "metadata" / "a.parquet")
    pq.write_table(pa.table(scores).slice(4), tmp_path / "metadata" / "b.parquet")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "urls.parquet", tmp_path / "shards"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "shards"


def test_what_img2dataset_wrote(theirs: Path, tmp_path: Path) -> None:
    rows = sorted(reading.rows(Img2dataset(path=str(theirs))), key=lambda row: int(row["source_key"]))
    assert [(row["rank"], row["caption"], row["failure"]) for row in rows] == [
        *((n, "abcde"[n], None) for n in range(5)),
        (5, None, "http_404"),
        (6, "g", "decode_error"),
    ]
    listed = {row["key"]: row for path in theirs.glob("*.parquet") for row in pq.read_table(path).to_pylist()}
    for row in rows[:5]:
        with tarfile.open(row["image_path"]) as tar:
            assert image_of(row) == tar.extractfile(f"{row['source_key']}.jpg").read()  # type: ignore[union-attr]
        for name in ("url", "uid", "width", "height", "original_width", "original_height", "exif", "sha256"):
            assert row[name] == listed[row["source_key"]][name]
        assert row["source_members"] is None
    assert rows[5]["failure_detail"] == listed[rows[5]["source_key"]]["error_message"]
    _sift_by_scores(theirs, tmp_path)


def _sift_by_scores(theirs: Path, tmp_path: Path) -> None:
    config = {
        "input": {"use": "read.img2dataset", "path": str(theirs), "metadata": str(tmp_path / "metadata")},
        "output": str(tmp_path / "out"),
        "stages": [{"use": "filter.where", "keep": "clip_b32_similarity_score >= 0.25"}],
    }
    results = pairsift.run(config, runner="local")
    assert results.report["counts"] | {"success": 2, "rejected": 3} == results.report["counts"]
    assert results.report["failures"] == {"http_404": 1, "decode_error": 1}
    assert not (tmp_path / "out" / "work" / "payloads").exists(), "no image is copied but into its shard"
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for row in pq.read_table(tmp_path / "out" / "shards" / "00000.parquet").to_pylist():
        assert row["clip_b32_similarity_score"] == pytest.approx(0.1 * row["rank"])
        shard = theirs / f"{int(row['source_key']) // 10:05d}.tar"
        with tarfile.open(shard) as tar:
            theirs_bytes = tar.extractfile(f"{row['source_key']}.jpg").read()  # type: ignore[union-attr]
        assert hashlib.sha256(found[f"{row['key']}.jpg"]).digest() == hashlib.sha256(theirs_bytes).digest()


def shard(folder: Path, rows: list[dict[str, Any]], members: list[tuple[str, bytes]], name: str = "00000") -> Img2dataset:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Img2dataset(path=str(folder))


def listed(key: str | None, status: str = "success", message: str | None = None) -> dict[str, Any]:
    return {"url": f"http://{key}", "caption": "c", "key": key, "status": status, "error_message": message}


def test_rows_and_samples_that_do_not_match(tmp_path: Path) -> None:
    rows = [
        listed("1"),
        listed("2"),
        listed("2"),
        listed(None),
        listed("3", "rejected", "by rule"),
        listed("4", "failed_to_resize", "image too small"),
        listed("5"),
    ]
    members = [("9.jpg", b"nine"), ("1.jpg", b"one"), ("1.cls", b"0"), ("2.jpg", b"two"), ("5.jpg", b"a"), ("5.jpg", b"b")]
    found = reading.rows(shard(tmp_path, rows, members))
    assert [(row["source_key"], row["failure"]) for row in found] == [
        ("1", None), ("2", None), ("2", "missing_image"), (None, "missing_image"), ("3", "missing_image"), ("4", "too_small"),
        ("5", "unreadable_row"), ("9", "unreadable_row"),
    ]  # fmt: skip
    assert image_of(found[0]) == b"one"
    assert found[0]["source_members"] == [{"extension": "cls", "offset": 2048 + 512, "length": 1}]
    assert "rejected: by rule" in found[4]["failure_detail"]
    assert "does not list it" in found[-1]["failure_detail"]


def test_a_damaged_tar_costs_what_follows(tmp_path: Path) -> None:
    reader = shard(tmp_path, [listed(key) for key in "123"], [(f"{key}.jpg", b"x" * 600) for key in "123"])
    tar = tmp_path / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3500])
    rows = reading.rows(reader)
    assert [row["failure"] for row in rows] == [None, "unreadable_row", "unreadable_row"]  # of 2, more might have followed
    assert "is damaged" in rows[1]["failure_detail"]


def test_shards_that_are_none(tmp_path: Path) -> None:
    shard(tmp_path, [listed("1")], [("1.jpg", b"x")])
    (tmp_path / "00001.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"nothing matches .*00001\.parquet"):
        Img2dataset(path=str(tmp_path)).check()
    (tmp_path / "00001.tar").unlink()
    pq.write_table(pa.table({"url": ["http://a"]}), tmp_path / "00000.parquet")
    with pytest.raises(ConfigError, match="no column 'key': it is not img2dataset's"):
        Img2dataset(path=str(tmp_path)).check()


def test_a_shard_changes_with_its_parquet(tmp_path: Path) -> None:
    reader = shard(tmp_path, [listed("1")], [("1.jpg", b"x")])
    before = reader.sources()
    pq.write_table(pa.Table.from_pylist([listed("1"), listed("2")]), tmp_path / "00000.parquet")
    assert reader.sources() != before


# Metadata


def metadata(path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_metadata_by_any_key(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shard(tmp_path / "in", [listed(key) for key in "abc"], [(f"{key}.jpg", b"x") for key in "abc"])
    path = metadata(
        tmp_path / "m.parquet", {"key": ["b", "x", "a", "b", None], "rating": [1.0, 2.0, 3.0, 4.0, 5.0], "status": [1] * 5}
    )
    reader = Img2dataset(path=str(tmp_path / "in"), metadata=path, metadata_key="key")
    rows = reading.rows(reader)
    assert [(row["source_key"], row["rating"], row["source_status"]) for row in rows] == [
        ("a", 3.0, 1),
        ("b", 1.0, 1),
        ("c", None, None),
    ]
    assert reading.rows(pickle.loads(pickle.dumps(reader))) == rows
    assert len(pickle.dumps(reader)) < 5000
    (row, *_) = reading.rows(
        Img2dataset(path=str(tmp_path / "in"), metadata=path, metadata_key="key", metadata_columns=["rating"])
    )
    assert "source_status" not in row


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"metadata_key": "nope"}, "the rows have no column 'nope'"),
        ({"metadata_key": "url"}, r"m.parquet has no column 'url'; its columns are key, rating"),
        ({"metadata_key": "key", "metadata_columns": ["x"]}, r"m.parquet has no column 'x'"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    (tmp_path / "in").mkdir()
    shard(tmp_path / "in", [listed("a")], [("a.jpg", b"x")])
    path = metadata(tmp_path / "m.parquet", {"key": ["a"], "rating": [1.0]})
    with pytest.raises(ConfigError, match=says):
        Img2dataset(path=str(tmp_path / "in"), metadata=path, **more).check()


def test_webdataset_takes_metadata_too(tmp_path: Path) -> None:
    uid = "0123456789abcdef" * 2
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in {"a.jpg": b"x", "a.json": json.dumps({"uid": uid.upper()}).encode(), "b.jpg": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    scores = metadata(tmp_path / "m.parquet", {"uid": [uid], "rating": [0.5]})
    config = {"use": "read.webdataset", "path": str(path), "metadata": scores}
    results = pairsift.run({"input": config, "output": str(tmp_path / "out")}, runner="local")
    assert results.sql("SELECT rating FROM ledger ORDER BY ordinal").fetchall() == [(0.5,), (None,)]
