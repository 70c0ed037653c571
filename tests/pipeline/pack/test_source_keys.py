import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.pack.source_keys import keys_of_source
from pairsift.stages.base import ConfigError


def keys(*source: str | None) -> list[str]:
    found: list[str] = keys_of_source([f"{n:09d}" for n in range(len(source))], source).to_pylist()
    return found


def test_keys_are_kept() -> None:
    assert keys("a", "folder/b", "00005", "größer") == ["a", "folder/b", "00005", "größer"]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        None,
        "/etc/passwd",
        "../../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        ".",
        "..",
        "a.b",
        "a\\b",
        "a\nb",
        "a\0b",
        "\ufffd",
        "__m__",
    ]
    + ["x" * 81, "é" * 41],
)
def test_what_cannot_be_a_name_is_the_ordinal(bad: str | None) -> None:
    assert keys("a", bad, "b") == ["a", "000000001", "b"]


def test_no_two_rows_share_a_key() -> None:
    assert keys("a", "a", "a", "000000001") == ["a", "000000001", "000000002", "000000003"]
    assert keys("000000002", "x", "x") == ["000000002", "x", "000000002-"]


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))


def sift(tmp_path: Path, **more: Any) -> Any:
    config = {"input": {"use": "read.webdataset", "path": str(tmp_path / "in.tar")}, "output": str(tmp_path / "out"), **more}
    return pairsift.run(config, runner="local", replace=True)


def test_shards_have_the_keys_of_the_source(tmp_path: Path) -> None:
    write_tar(tmp_path / "in.tar", ["b.jpg", "a.jpg", "a.txt", "../up.jpg", "a/c.jpg", "b.jpg"])
    sift(tmp_path)
    sift(tmp_path, shards={"keys": "source"})
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [name for name in found if name.endswith(".jpg")] == ["b.jpg", "a.jpg", "000000002.jpg", "a/c.jpg", "000000004.jpg"]
    assert found["000000002.jpg"] == b"../up.jpg"
    assert json.loads(found["b.json"])["key"] == "b"
    listed = pq.read_table(tmp_path / "out" / "shards" / "00000.parquet")
    assert listed["key"].to_pylist() == ["b", "a", "000000002", "a/c", "000000004"]
    assert listed["source_key"].to_pylist() == ["b", "a", "../up", "a/c", "b"]
    assert pq.read_table(tmp_path / "out" / "fates.parquet")["key"].to_pylist() == [f"{n:09d}" for n in range(5)]


def test_a_list_has_no_such_keys(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://a\n")
    config = {"input": {"use": "read.urls", "path": str(tmp_path / "urls.txt")}, "output": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"read\.urls gives no keys"):
        pairsift.run(config | {"shards": {"keys": "source"}}, runner="local")
