"""`shards.layout: img2dataset`: every input row is in the Parquet of the shard where img2dataset would have it."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.pack.pack import keys_of_img2dataset

DOWNLOAD = {"use": "download", "allow_private_addresses": True, "image_size": 64}
RULES = [
    {"use": "filter.where", "keep": "caption <> 'early'", "name": "early"},
    DOWNLOAD,
    {"use": "filter.where", "keep": "caption <> 'late'", "name": "late"},
    {"use": "dedup.exact", "by": ["sha256"]},
]
# name, caption, status, error_message
ROWS = [
    ("coffee.jpg", "a", "success", None),
    ("missing.jpg", "b", "failed_to_download", "404"),
    ("moon.jpg", "early", "rejected", "early"),
    ("page.jpg", "c", "failed_to_resize", None),
    ("moon.jpg", "late", "rejected", "late"),
    ("coffee.jpg", "d", "duplicate", "duplicate sha256"),
    ("missing.jpg", "e", "failed_to_download", "404"),
    ("rocket.jpg", "early", "rejected", "early"),
    ("rocket.jpg", "early", "rejected", "early"),
    ("brick.jpg", "f", "success", None),
]


@pytest.fixture
def config(listing: Callable[..., dict[str, Any]], web: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    web.files["page.jpg"] = b"<html>gone</html>"

    source = listing([(web.url(name), caption) for name, caption, _, _ in ROWS], unit_rows=2)

    def make(layout: str) -> dict[str, Any]:
        shards = {"rows": 3, "layout": layout}
        return {
            "input": source,
            "output": str(tmp_path / layout),
            "work": str(tmp_path / "work"),
            "stages": RULES,
            "shards": shards,
        }

    return make


def rows_of(shards: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(shards.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_row_is_in_its_shard(config: Callable[..., dict[str, Any]], tmp_path: Path, web: Any) -> None:
    results = pairsift.run(config("img2dataset"), runner="local")
    shards = tmp_path / "img2dataset" / "shards"
    rows = rows_of(shards)
    assert [row["caption"] for row in rows] == [caption for _, caption, _, _ in ROWS]
    assert [row["status"] for row in rows] == [status for _, _, status, _ in ROWS]
    for row, (_, _, _, message) in zip(rows, ROWS, strict=True):
        assert row["error_message"] == message or (row["status"] == "failed_to_resize" and row["error_message"])
    assert [row["key"] for row in rows] == [f"{shard:05d}{place}" for shard, n in enumerate((3, 3, 3, 1)) for place in range(n)]
    assert [row["width"] is not None for row in rows] == [
        name not in {"missing.jpg", "page.jpg"} and c != "early" for name, c, _, _ in ROWS
    ]
    assert results.fates()["shard"].to_pylist() == [f"{i // 3:05d}" for i in range(10)]
    assert json.loads((shards / "sizes.json").read_text()) == {"00000.tar": 1, "00001.tar": 0, "00002.tar": 0, "00003.tar": 1}
    with tarfile.open(shards / "00000.tar") as tar:
        assert tar.getnames() == ["000000.jpg", "000000.json", "000000.txt"]
    stats = json.loads((shards / "00001_stats.json").read_text())
    assert {name: stats[name] for name in ("count", "successes", "failed_to_resize", "rejected", "duplicate")} == {
        "count": 3,
        "successes": 0,
        "failed_to_resize": 1,
        "rejected": 1,
        "duplicate": 1,
    }


def test_the_layout_is_a_matter_of_packing_alone(config: Callable[..., dict[str, Any]], tmp_path: Path, web: Any) -> None:
    pairsift.run(config("full"), runner="local")
    before = len(web.requests)
    pairsift.run(config("img2dataset"), runner="local")
    again = pairsift.run(config("img2dataset"), runner="local")
    assert len(web.requests) == before
    assert again.report["shards_written"] == 0
    full, listed = rows_of(tmp_path / "full" / "shards"), rows_of(tmp_path / "img2dataset" / "shards")
    kept = [row for row in listed if row["status"] == "success"]
    ours = {"key", "original_bytes", "original_format"}  # img2dataset has other keys, and not the rest
    assert [{k: v for k, v in row.items() if k not in ours} for row in full] == [
        {k: v for k, v in row.items() if k not in ours} for row in kept
    ]
    assert "original_bytes" not in kept[0]


def test_keys() -> None:
    assert keys_of_img2dataset(3, 2, 10_000) == ["000030000", "000030001"]  # the ordinal
    assert keys_of_img2dataset(3, 2, 1000) == ["00003000", "00003001"]
    assert keys_of_img2dataset(3, 2, 1001) == ["000030000", "000030001"]
    assert keys_of_img2dataset(7, 1, 1) == ["00007"]
