import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
import reading

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.image_files import ImageFiles


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("1.jpg", "2.JPEG", "sub/3.png"):
        (folder / name).write_bytes(name.encode() * 9)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


def rows_of(path: Path, folder: Path | str, **parameters: Any) -> list[dict[str, Any]]:
    return reading.rows(ImageFiles(path=str(path), folder=str(folder), **parameters))


def test_flickr30k_and_its_token_file(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "results.tsv"
    path.write_text("1.jpg#0\tone\n1.jpg#1\ttwo\nsub/3.png#0\tthree\n")
    rows = rows_of(path, images, preset="flickr30k")
    assert [(row["source_key"], row["caption"], row["image_format"]) for row in rows] == [
        ("1.jpg", "one", "jpg"), ("1.jpg", "two", "jpg"), ("sub/3.png", "three", "png"),
    ]  # fmt: skip
    assert rows[0]["image_path"] == str(images / "1.jpg")
    assert (rows[0]["image_offset"], rows[0]["image_length"], rows[0]["url"]) == (0, 45, None)


def test_karpathys_splits_come_out_as_shards(tmp_path: Path, images: Path) -> None:
    found = [
        {"filename": name, "split": "train", "sentids": [0, 1], "sentences": [{"raw": f"{name} a"}, {"raw": f"{name} b"}]}
        for name in ("1.jpg", "2.JPEG", "missing.jpg")
    ]
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": found, "dataset": "flickr30k"}))
    entry = {"use": "read.image_files", "path": str(path), "folder": str(images), "preset": "flickr30k", "captions": "list"}
    results = pairsift.run({"input": entry, "output": str(tmp_path / "out")}, runner="local")
    assert results.report["kept"] == 2
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert members["000000001.jpg"] == b"2.JPEG" * 9
    assert json.loads(members["000000001.json"])["captions"] == ["2.JPEG a", "2.JPEG b"]
    assert members["000000000.txt"] == b"1.jpg a"


@pytest.mark.parametrize(
    "name", ["none.jpg", "../secret.jpg", "sub/../../secret.jpg", "link.jpg", "empty.jpg", "sub", "notes.txt", "", "a\0.jpg"]
)
@pytest.mark.parametrize("root", ["", "/"])
def test_what_is_no_image_in_the_folder(tmp_path: Path, images: Path, name: str, root: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"file": f"{images.parent}/{name}" if root else name, "caption": "c"}) + '\n{"file": "1.jpg"}\n')
    rows = rows_of(path, images, columns={"file": "file", "caption": "caption"})
    assert [row["failure"] for row in rows] == ["missing_image", None]
    assert rows[0]["image_path"] is None


def test_a_folder_in_an_object_store(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/pairsift-images/a/1.jpg", b"12345")
    (tmp_path / "list.csv").write_text("file,caption\na/1.jpg,one\na/2.jpg,two\n../1.jpg,three\n")
    rows = rows_of(tmp_path / "list.csv", "memory://pairsift-images", columns={"file": "file", "caption": "caption"})
    assert [(row["image_path"], row["image_length"], row["failure"]) for row in rows] == [
        ("memory:///pairsift-images/a/1.jpg", 5, None), (None, None, "missing_image"), (None, None, "missing_image"),
    ]  # fmt: skip
    memory.rm("/pairsift-images", recursive=True)


def test_mistakes(tmp_path: Path, images: Path) -> None:
    (tmp_path / "list.csv").write_text("name,caption\n1.jpg,one\n")
    with pytest.raises(ConfigError, match="which column is the file"):
        rows_of(tmp_path / "list.csv", images)
    with pytest.raises(ConfigError, match="is no folder"):
        rows_of(tmp_path / "list.csv", tmp_path / "none", columns={"file": "name"})
    with pytest.raises(ConfigError, match="no column 'filename' for file"):
        rows_of(tmp_path / "list.csv", images, preset="flickr30k", header=["x", "y"])
