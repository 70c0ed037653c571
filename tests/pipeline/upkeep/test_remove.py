"""What was taken down is gone from shards and payloads, the rest is as it was, and nothing brings it back."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.report.survey import output_config, survey
from pairsift.pipeline.upkeep.check import check
from pairsift.pipeline.upkeep.remove import Removal, remove
from pairsift.pipeline.upkeep.why import why
from pairsift.stages.base import ConfigError

VICTIM = 7  # a row in the middle of shard 00001


def fates(output: Path) -> dict[int, dict[str, Any]]:
    return {row["ordinal"]: row for row in pq.read_table(output / "fates.parquet").to_pylist()}


def samples(output: Path) -> dict[str, dict[str, bytes]]:
    """Key → suffix → bytes, of all shards."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(output.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def names_anywhere(folder: Path, image: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and image in path.read_bytes()]


def go(output: Path, *entries: tuple[str, str], **options: Any) -> Removal:
    return remove(str(output), list(entries), **{"yes": True, **options})


def problems(output: Path) -> list[Any]:
    return check(str(output), lambda _: None).problems


def entry_of(row: dict[str, Any], kind: str, output: Path) -> tuple[str, str]:
    if kind == "sha256":
        listed = {r["uid"]: r["sha256"] for path in output.glob("shards/*.parquet") for r in pq.read_table(path).to_pylist()}
        return kind, listed[row["uid"]]
    return kind, row[kind]


@pytest.mark.parametrize("kind", ["url", "uid", "key", "sha256"])
def test_a_sample_is_taken_down(kind: str, output: Path, run: Callable[..., Any], published: Any, web: Any) -> None:
    before, rows, hashes = samples(output), fates(output), published(output)
    victim = rows[VICTIM]
    assert victim["shard"] == "00001"
    image = before[victim["key"]]["jpg"]
    assert len(names_anywhere(output, image)) == 2  # a shard and a payload
    entry = entry_of(victim, kind, output)
    told = go(output, entry, yes=False)
    assert (told.rows, told.images, told.shards, told.done) == (1, 1, ["00001"], False)
    assert published(output) == hashes
    removal = go(output, entry)
    assert (removal.rows, removal.shards, removal.done, removal.complete) == (1, ["00001"], True, True)
    assert names_anywhere(output, image) == []
    assert samples(output) == {key: sample for key, sample in before.items() if key != victim["key"]}
    after = fates(output)
    assert (after[VICTIM]["status"], after[VICTIM]["code"], after[VICTIM]["shard"]) == ("removed", "removed", None)
    assert {n: row for n, row in after.items() if n != VICTIM} == {n: row for n, row in rows.items() if n != VICTIM}
    changed = {name for name, hash_ in published(output).items() if hashes[name] != hash_}
    assert changed == {"00001.tar", "00001.parquet", "00001_stats.json", "sizes.json", "fates.parquet"}
    assert problems(output) == []
    planned = survey(output_config(str(output)))
    assert planned.shards is not None
    assert (planned.shards.to_write, planned.shards.to_remove, planned.replaced) == (0, 0, None), "a run will do nothing"
    assert json.loads((output / "run.json").read_text())["counts"]["removed"] == 1
    hashes = published(output)
    web.requests.clear()
    run()
    assert published(output) == hashes
    assert web.requests == []
    assert why(str(output), victim["key"])[0].verdict.startswith("removed on request")


def test_new_input_does_not_bring_it_back(
    output: Path, run: Callable[..., Any], listing: Callable[..., Any], config: dict[str, Any], web: Any, tmp_path: Path
) -> None:
    """Neither its URL under another caption, nor the same bytes under another URL."""
    config["input"]["path"] = str(tmp_path / "rows*.parquet")
    run()
    victim = fates(output)[VICTIM]
    go(output, ("url", victim["url"]), entry_of(victim, "sha256", output))
    name = victim["url"].rpartition("/")[2]
    web.files["copy.jpg"] = web.files[name]
    listing([(victim["url"], "another caption"), (web.url("copy.jpg"), "a copy"), (web.url("y.jpg"), "gone")], "rows2.parquet")
    web.requests.clear()
    run()
    assert sorted(set(web.paths())) == ["copy.jpg", "y.jpg"]
    rows = fates(output)
    assert [rows[n]["status"] for n in (VICTIM, 13, 14)] == ["removed", "removed", "removed"]
    layers = [pq.read_table(path).to_pylist() for path in output.glob("work/layers/download-*/*/*")]
    copy = next(row for layer in layers for row in layer if row["ordinal"] == 14)
    assert (copy["failure"], copy["sha256"], copy["image_path"]) == ("removed", None, None)
    assert problems(output) == []


def test_duplicates_go_with_their_keeper(output: Path, run: Callable[..., Any]) -> None:
    rows = fates(output)
    assert rows[4]["duplicate_of"] == rows[0]["key"]
    uid = ("uid", rows[0]["uid"])
    assert go(output, uid, yes=False, keep_duplicates=True).rows == 1
    removal = go(output, uid)
    assert (removal.rows, removal.duplicates) == (2, 1)
    assert [fates(output)[n]["status"] for n in (0, 4)] == ["removed", "removed"]


def test_a_duplicate_that_is_kept_takes_its_place(output: Path, run: Callable[..., Any], web: Any) -> None:
    rows = fates(output)
    removal = go(output, ("uid", rows[0]["uid"]), keep_duplicates=True)
    assert (removal.rows, removal.complete) == (1, False)  # the other row has yet to be downloaded
    web.requests.clear()
    run(replace=True)
    assert web.paths() == [min(web.files)]
    assert fates(output)[4]["status"] == "success"
    assert problems(output) == []


def test_the_same_command_ends_what_was_cut_short(output: Path, run: Callable[..., Any], published: Any) -> None:
    """Tombstones are there, and nothing else was done; a run may have come between."""
    from pairsift.pipeline.ledger import tombstones
    from pairsift.stages.storage import Folder

    row = fates(output)[VICTIM]
    image = samples(output)[row["key"]]["jpg"]
    tombstones.add(Folder(str(output / "work")), [("url", row["url"])])
    assert "removed on request" in problems(output)[0].what
    run(replace=True)
    assert len(names_anywhere(output, image)) == 1
    removal = go(output, ("url", row["url"]))
    assert (removal.rows, removal.images, removal.shards) == (1, 1, [])
    assert names_anywhere(output, image) == []
    assert problems(output) == []
    assert go(output, ("url", row["url"])).images == 0


def test_shuffled_shards_and_img2datasets_layout(run: Callable[..., Any], tmp_path: Path, published: Any) -> None:
    for name, shards in {"shuffled": {"rows": 5, "shuffle_seed": 7}, "theirs": {"rows": 5, "layout": "img2dataset"}}.items():
        output = tmp_path / name
        run(output=str(output), shards=shards)
        before, rows, hashes = samples(output), fates(output), published(output)
        removal = go(output, ("url", rows[VICTIM]["url"]))
        assert (removal.shards, removal.complete) == ([rows[VICTIM]["shard"]], True)
        assert len(samples(output)) == len(before) - 1
        changed = {file for file, hash_ in published(output).items() if hashes[file] != hash_}
        stem = rows[VICTIM]["shard"]
        assert changed == {f"{stem}.tar", f"{stem}.parquet", f"{stem}_stats.json", "sizes.json", "fates.parquet"}
        assert problems(output) == []


def test_images_of_other_layers_go_too_and_source_tars_are_named(
    output: Path, run: Callable[..., Any], config: dict[str, Any], tmp_path: Path
) -> None:
    """Another size of the same image, from another config with the same work; and an output made from our shards."""
    stages = [{**stage, "image_size": 32} if stage["use"] == "download" else stage for stage in config["stages"]]
    run(output=str(tmp_path / "small"), work=str(output / "work"), stages=stages)
    source = {"use": "read.webdataset", "path": str(output / "shards" / "*.tar")}
    run(input=source, output=str(tmp_path / "again"), stages=[])
    row = fates(output)[VICTIM]
    removal = go(tmp_path / "again", ("url", row["url"]), yes=False)
    assert (removal.images, removal.elsewhere) == (0, [str(output / "shards" / "00001.tar")])
    image = samples(tmp_path / "small")[row["key"]]["jpg"]
    assert go(output, ("url", row["url"])).images == 2
    assert names_anywhere(output, image) == []
    assert go(tmp_path / "small", ("url", row["url"])).images == 0
    assert names_anywhere(tmp_path, image) == []


def test_a_run_at_work_is_not_disturbed(output: Path) -> None:
    from pairsift.pipeline.control.lock import hold
    from pairsift.stages.storage import Folder

    with hold(Folder(str(output / "work"))), pytest.raises(ConfigError, match="in use"):
        go(output, ("key", f"{VICTIM:09d}"))


def test_a_key_of_nobody(output: Path) -> None:
    assert go(output, ("key", "000000099"), yes=False).unknown == ["000000099"]
