"""What a dataset's samples hold beside images and captions comes through to the byte."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pairsift

IMAGES = {f"{n:03d}": bytes([n]) * (700 + 511 * n) for n in range(7)}


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def members_of(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Samples with a class, a mask and an array; one has none of them, one has all."""
    members = []
    for n, (key, image) in enumerate(IMAGES.items()):
        members += [(f"{key}.jpg", image), (f"{key}.txt", f"caption {n}".encode()), (f"{key}.json", b'{"n": %d}' % n)]
        members += [(f"{key}.cls", b"%d" % n)] if n % 2 else []
        members += [(f"{key}.mask.png", b"m" * n * 600), (f"{key}.npy", b"")] if n % 3 == 0 else []
    write_tar(tmp_path / "in.tar", members)
    return tmp_path / "in.tar"


def sift(source: Path, output: Path, **more: Any) -> Any:
    parameters = more.pop("input", {})
    config = {"input": {"use": "read.webdataset", "path": str(source), **parameters}, "output": str(output), **more}
    return pairsift.run(config, runner="local")


def test_members_come_through_as_they_are(source: Path, tmp_path: Path) -> None:
    sift(source, tmp_path / "out", stages=[{"use": "filter.where", "keep": "n <> 1"}], shards={"rows": 4})
    found = members_of(tmp_path / "out")
    for n, (key, image) in enumerate(IMAGES.items()):
        ours = {name.partition(".")[2]: data for name, data in found.items() if name.startswith(f"{n:09d}.")}
        if n == 1:
            assert not ours
            continue
        meta = json.loads(ours.pop("json"))
        assert meta["source_key"] == key
        assert meta["n"] == n
        assert "source_members" not in meta
        assert hashlib.sha256(ours.pop("jpg")).hexdigest() == hashlib.sha256(image).hexdigest()
        wanted = {"txt": f"caption {n}".encode()}
        wanted |= {"cls": b"%d" % n} if n % 2 else {}
        wanted |= {"mask.png": b"m" * n * 600, "npy": b""} if n % 3 == 0 else {}
        assert ours == wanted
    names = [name for name in found if name.startswith("000000003.")]
    assert names == sorted(names)
    assert "source_members" not in pq.read_schema(tmp_path / "out" / "shards" / "00000.parquet").names


def test_members_can_be_chosen(source: Path, tmp_path: Path) -> None:
    sift(source, tmp_path / "some", input={"members": ["cls"]})
    assert {name.partition(".")[2] for name in members_of(tmp_path / "some")} == {"jpg", "json", "txt", "cls"}
    sift(source, tmp_path / "none", input={"members": []})
    assert {name.partition(".")[2] for name in members_of(tmp_path / "none")} == {"jpg", "json", "txt"}


def test_shards_closed_by_bytes_count_them(source: Path, tmp_path: Path) -> None:
    sift(source, tmp_path / "out", shards={"max_bytes": 20480})
    assert max(path.stat().st_size for path in (tmp_path / "out" / "shards").glob("*.tar")) <= 20480
    assert len(members_of(tmp_path / "out")) == len(members_of_tar(source))


def members_of_tar(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()
