"""One list, two commands: `img2dataset` and `pairsift download` with the same flags, from end to end."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMANDS = {"img2dataset": "img2dataset.main", "pairsift": "pairsift.pipeline.cli.main"}
COLUMNS = ("caption", "width", "height", "original_width", "original_height", "exif", "sha256", "licence")
FLAGS = [
    *("--input_format=parquet", "--url_col=URL", "--caption_col=TEXT", "--output_format=webdataset", "--thread_count=4"),
    *("--save_additional_columns", '["licence"]', "--image_size", "96", "--resize_mode=keep_ratio", "--retries=0"),
    *(
        "--number_sample_per_shard=4",
        "--resize_only_if_bigger",
        "--encode_quality=90",
        "--min_image_size=20",
        "--timeout=5",
        "--processes_count=1",
    ),
]


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", COMMANDS[name], *(["download"] if name == "pairsift" else []), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"},
    )


@pytest.fixture
def rows(web: Any, tmp_path: Path) -> Path:
    web.files["page.jpg"] = b"<html>gone</html>"
    names = ["coffee.jpg", "moon.jpg", "missing.jpg", "rocket.jpg", "page.jpg", "brick.jpg"]
    table = {"URL": [web.url(name) for name in names], "TEXT": [f"caption {name}" for name in names], "licence": ["?"] * 6}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    return tmp_path / "list.parquet"


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Shard and key → the columns of each row, and its image, text and JSON where it has them."""
    found: dict[str, dict[str, Any]] = {}
    for shard in sorted(folder.glob("*.parquet")):
        listed = {row["key"]: row for row in pq.read_table(shard).to_pylist()}
        for name, data in members_of(shard.with_suffix("")):
            key, extension = name.split(".")
            listed[key][f".{extension}"] = data
        found |= {f"{shard.stem}/{key}": row for key, row in listed.items()}
    return found


def members_of(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Of a tar or, with `output_format files`, of a folder."""
    if shard.is_dir():
        yield from ((file.name, file.read_bytes()) for file in shard.iterdir())
        return
    with tarfile.open(f"{shard}.tar") as tar:
        for member in tar:
            yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def test_the_same_flags_give_the_same_dataset(rows: Path, tmp_path: Path) -> None:
    for name in COMMANDS:
        ours = ["--allow_private_addresses", "--set", "stages.0.decode=exact"] if name == "pairsift" else []
        done = command(name, "--url_list", str(rows), "--output_folder", str(tmp_path / name), *FLAGS, *ours)
        assert done.returncode == 0, done.stderr
    theirs, mine = rows_of(tmp_path / "img2dataset"), rows_of(tmp_path / "pairsift" / "shards")
    assert sorted(theirs) == list(mine)
    assert list(mine) == ["00000/000000", "00000/000001", "00000/000002", "00000/000003", "00001/000010", "00001/000011"]
    for key, row in theirs.items():
        for column in ("url", "status", *COLUMNS, *(c for c in (".jpg", ".txt") if c in row)):
            assert mine[key][column] == row[column], (key, column)
        assert row.keys() == mine[key].keys() - {"uid"}
    for shard in ("00000", "00001"):
        their, our = (
            json.loads((tmp_path / f / f"{shard}_stats.json").read_text()) for f in ("img2dataset", "pairsift/shards")
        )
        for field in ("count", "successes", "failed_to_download", "failed_to_resize"):
            assert our[field] == their[field], (shard, field)
    assert json.loads((tmp_path / "pairsift/shards/sizes.json").read_text()) == {"00000.tar": 3, "00001.tar": 1}


@pytest.mark.parametrize("output_format", ["webdataset", "files"])
def test_a_half_finished_folder_is_gone_on_with(rows: Path, tmp_path: Path, web: Any, output_format: str) -> None:
    theirs = tmp_path / "images"
    flags = ["--url_list", str(rows), "--output_folder", str(theirs), *FLAGS]
    done = command("img2dataset", *flags, f"--output_format={output_format}")
    assert done.returncode == 0, done.stderr
    whole = rows_of(theirs)
    (theirs / "00001_stats.json").unlink()  # as if it had been killed while it wrote this shard
    web.requests.clear()
    done = command("pairsift", *flags, "--allow_private_addresses", "--set", "stages.0.decode=exact")
    assert done.returncode == 0, done.stderr
    assert "4 rows are taken over" in done.stderr
    assert sorted(web.paths()) == ["brick.jpg", "page.jpg"]
    found = rows_of(theirs / "shards")
    assert found.keys() == whole.keys()
    for key, row in whole.items():
        for column in ("url", "status", *COLUMNS, *(c for c in (".jpg", ".txt") if c in row)):
            assert found[key][column] == row[column], (key, column)
    codes = pq.read_table(theirs / "fates.parquet")["code"].to_pylist()
    assert codes == [None, None, "http_404", None, "html_page", None]


@pytest.mark.parametrize("damaged", ["00000.tar", "00000.parquet"])
def test_a_damaged_shard_is_downloaded_again(rows: Path, tmp_path: Path, web: Any, damaged: str) -> None:
    theirs = tmp_path / "images"
    flags = ["--url_list", str(rows), "--output_folder", str(theirs), *FLAGS]
    assert command("img2dataset", *flags).returncode == 0
    whole = (theirs / damaged).read_bytes()
    (theirs / damaged).write_bytes(whole[: len(whole) // 2])
    web.requests.clear()
    done = command("pairsift", *flags, "--allow_private_addresses")
    assert done.returncode == 0, done.stderr
    assert f"{theirs}/00000 is damaged" in done.stderr
    assert "2 rows are taken over" in done.stderr
    assert sorted(web.paths()) == ["coffee.jpg", "missing.jpg", "moon.jpg", "rocket.jpg"]
    assert len(rows_of(theirs / "shards")) == 6


def test_shards_of_another_list_are_refused(rows: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "images"
    flags = ["--url_list", str(rows), "--output_folder", str(theirs), *FLAGS]
    assert command("img2dataset", *flags).returncode == 0
    done = command("pairsift", *flags, "--allow_private_addresses", "--number_sample_per_shard=5")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another list, or another number_sample_per_shard" in done.stderr
    assert not (theirs / "cut.json").exists()


def test_shards_without_images_are_refused(rows: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "images"
    flags = ["--url_list", str(rows), "--output_folder", str(theirs), *FLAGS]
    assert command("img2dataset", *flags, "--output_format=parquet").returncode == 0
    done = command("pairsift", *flags, "--allow_private_addresses")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "shard 00000 of img2dataset has no images as webdataset or files" in done.stderr
    assert not (theirs / "work").exists()


def test_mistakes_and_notes(rows: Path, tmp_path: Path) -> None:
    done = command("pairsift", "--url_list", str(rows), "--output_format", "tfrecord")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = command("pairsift", "--url_list", str(rows), *FLAGS, "--show-config", "--set", "x=1")
    assert json.loads(done.stdout)["shards"] == {"rows": 4, "layout": "img2dataset"}


def test_other_flags_rewrite_nothing_unless_asked(rows: Path, tmp_path: Path) -> None:
    flags = ["--url_list", str(rows), "--output_folder", str(tmp_path / "images"), *FLAGS, "--allow_private_addresses"]
    assert command("pairsift", *flags).returncode == 0
    flags += ["--image_size", "64"]
    refused = command("pairsift", *flags)
    assert (refused.returncode, refused.stderr.strip().count("\n")) == (2, 0)
    assert "`--replace` rewrites" in refused.stderr
    done = command("pairsift", *flags, "--replace")
    assert done.returncode == 0, done.stderr
    kept = [row for row in rows_of(tmp_path / "images" / "shards").values() if row["width"]]
    assert {min(row["width"], row["height"]) for row in kept} == {64}
