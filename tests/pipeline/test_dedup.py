"""Duplicates in whole runs: the same bytes with one worker, with four, and after one was killed."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import pairsift
from pairsift.stages.storage import Folder

WAYS = {"one worker": 1, "four workers": 4, "a worker killed": 4}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Path:
    """Each photo, smaller, framed, mirrored in the middle of others, and once more as it is."""
    path = tmp_path_factory.mktemp("pairs") / "00000.tar"
    with tarfile.open(path, "w") as tar:
        number = 0
        for copy in range(4):
            for name, data in sorted(photos.items()):
                for extension, member in (("jpg", edited(data, copy)), ("txt", f"{name} {copy}".encode())):
                    info = tarfile.TarInfo(f"{number:05}.{extension}")
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
                number += 1
    return path


def edited(data: bytes, copy: int) -> bytes:
    if copy in (0, 3):
        return data
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if copy == 1:
        pixels = cv2.resize(pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    else:
        pixels = np.roll(pixels, pixels.shape[1] // 9, axis=1)
    return bytes(cv2.imencode(".jpg", pixels)[1])


def config(pairs: Path, output: Path, workers: int, *more: dict[str, Any]) -> dict[str, Any]:
    few = {"resources": {"cpus": 0.25, "workers": workers}}
    stages = [
        *more,
        {"use": "image.hashes", **few},
        {"use": "image.phash", **few},
        {"use": "pairsift_toys.grey", **few},
        {"use": "dedup.exact", "by": ["image_sha256"]},
        {"use": "dedup.perceptual", "name": "near"},
        {"use": "dedup.semantic", "similarity": 0.6, "name": "alike"},
    ]
    return {"input": {"use": "read.webdataset", "path": str(pairs), "unit_rows": 4}, "output": str(output), "stages": stages}


def published(output: Path) -> dict[str, str]:
    names = ["fates.parquet", *(f"shards/{name}" for name in Folder(str(output)).names("shards"))]
    return {name: hashlib.md5((output / name).read_bytes()).hexdigest() for name in names}


def test_workers_and_their_deaths_change_nothing(pairs: Path, tmp_path: Path, ray_session: None) -> None:
    found: dict[str, dict[str, str]] = {}
    for way, workers in WAYS.items():
        output, mark = tmp_path / way, tmp_path / f"{way}.mark"
        if way != "a worker killed":
            mark.touch()
        once = {"use": "pairsift_toys.dies_once", "mark": str(mark), "resources": {"cpus": 0.25, "workers": workers}}
        results = pairsift.run(config(pairs, output, workers, once), runner="ray")
        assert mark.exists()
        by = [row["rejected_by"] for row in results.fates().to_pylist() if row["status"] == "duplicate"]
        assert set(by) == {"duplicate image_sha256", "near", "alike"}
        found[way] = published(output)
    assert found["one worker"] == found["four workers"] == found["a worker killed"]
    assert len(found["one worker"]) > 3


def test_rules_dealt_out_on_ray_change_nothing(pairs: Path, tmp_path: Path, ray_session: None) -> None:
    alone = config(pairs, tmp_path / "alone", 1)
    pairsift.run(alone, runner="local")
    dealt = {**alone, "output": str(tmp_path / "dealt"), "work": str(tmp_path / "alone" / "work"), "cut_partitions": 3}
    pairsift.run(dealt, runner="ray")
    assert published(tmp_path / "dealt") == published(tmp_path / "alone")
    assert not list((tmp_path / "alone" / "work").glob("spill*"))


def test_a_duplicate_names_a_row_that_stays(pairs: Path, tmp_path: Path) -> None:
    fates = pairsift.run(config(pairs, tmp_path / "out", 1), runner="local").fates().to_pylist()
    keepers = {row["key"]: row["duplicate_of"] for row in fates if row["status"] == "duplicate"}
    count = len(fates) // 4
    assert {row["rejected_by"] for row in fates} == {None, "duplicate image_sha256", "near", "alike"}
    rules = ["duplicate image_sha256", "near", "alike", None]
    taken = {row["key"]: rules.index(row["rejected_by"]) for row in fates}
    assert all(taken[keeper] > taken[key] for key, keeper in keepers.items()), "a keeper may go by a later rule only"
    for copy in (1, 3):  # the smaller ones, and those that are the same
        rows = fates[copy * count : (copy + 1) * count]
        assert all(row["status"] == "duplicate" for row in rows), copy
