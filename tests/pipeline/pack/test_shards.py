"""Full shards over several generations: counted, bounded, shuffled, held, and sealed once they are published."""

import hashlib
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.ledger.tar import TarWriter, archive_bytes
from pairsift.pipeline.pack import spread
from pairsift.stages.base import ConfigError

RULE = {"use": "filter.where", "keep": "caption <> 'drop'"}
SHORTEST = {"use": "pairsift_toys.shortest"}
Pack = Callable[..., Any]


class Source:
    """Tars in a folder: every fourth row is dropped by RULE."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._rows = folder, 0
        folder.mkdir()

    def add(self, rows: int, captions: list[str] | None = None) -> None:
        """One more file, with as many rows; the image of row i has 100 i bytes."""
        with open(self.folder / f"{self._rows:04d}.tar", "wb") as file:
            tar = TarWriter(file)
            for i in range(rows):
                row = self._rows + i
                caption = captions[i] if captions else "drop" if row % 4 == 3 else f"caption {row}"
                tar.add(f"{row:04d}.jpg", bytes([row % 256]) * (100 * row))
                tar.add(f"{row:04d}.json", json.dumps({"share": row / 7, "boxes": [[row, 1]], "when": None}).encode())
                tar.add(f"{row:04d}.txt", caption.encode())
            tar.close()
        self._rows += rows


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "in")


@pytest.fixture
def pack(source: Source, tmp_path: Path) -> Pack:
    def run(
        output: str = "out", *, rule: dict[str, Any] = RULE, runner: str = "local", replace: bool = False, **shards: Any
    ) -> Any:
        reader = {"use": "read.webdataset", "path": str(source.folder), "unit_rows": 3}
        config = {"input": reader, "output": str(tmp_path / output), "stages": [rule], "shards": {"rows": 4, **shards}}
        return pairsift.run(config, runner=runner, replace=replace)

    return run


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "shards").iterdir())}


def sealed(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    return all(after[name] == data for name, data in before.items() if name != "sizes.json")


def samples(output: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each shard's Parquet, which its tar must have in the same order, bytes and all."""
    found = {}
    for path in sorted((output / "shards").glob("*.tar")):
        rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert list(members) == [f"{row['key']}.{suffix}" for row in rows for suffix in ("jpg", "json", "txt")]
        for row in rows:
            number = int(row["key"])
            assert members[f"{row['key']}.jpg"] == bytes([number % 256]) * (100 * number)
            assert json.loads(members[f"{row['key']}.json"]) == row
            assert members[f"{row['key']}.txt"].decode() == row["caption"]
        assert json.loads(path.with_name(f"{path.stem}_stats.json").read_text())["count"] == len(rows)
        found[path.stem] = rows
    return found


def kept(rows: int) -> list[str]:
    return [f"{row:09d}" for row in range(rows) if row % 4 != 3]


def keys(output: Path) -> list[list[str]]:
    return [[row["key"] for row in rows] for rows in samples(output).values()]


def named_in_fates(results: Any) -> dict[str, str]:
    fates = results.fates()
    assert fates["ordinal"].to_pylist() == list(range(len(fates)))
    return {fate["key"]: fate["shard"] for fate in fates.select(["key", "shard"]).to_pylist() if fate["shard"]}


def test_input_order_over_generations(source: Source, pack: Pack, tmp_path: Path) -> None:
    source.add(15)
    pack()
    before = contents(tmp_path / "out")
    source.add(9)
    source.add(1)
    results = pack()
    assert sealed(before, contents(tmp_path / "out"))
    found = keys(tmp_path / "out")
    assert [len(shard) for shard in found] == [4, 4, 4, 4, 3]
    assert list(itertools.chain(*found)) == kept(25)
    assert named_in_fates(results) == {key: f"{n:05d}" for n, shard in enumerate(found) for key in shard}


@pytest.mark.parametrize("tail", ["short", "hold"])
@pytest.mark.parametrize("seed", [None, 7])
def test_max_bytes(source: Source, pack: Pack, tmp_path: Path, seed: int | None, tail: str) -> None:
    source.add(20)
    source.add(9)
    results = pack(rows=6, max_bytes=30_000, shuffle_seed=seed, tail=tail)
    shards = samples(tmp_path / "out")
    assert len(shards) > 3
    assert named_in_fates(results) == {row["key"]: name for name, rows in shards.items() for row in rows}
    blocks = {}
    for name in shards:
        path = tmp_path / "out" / "shards" / f"{name}.tar"
        with tarfile.open(path) as tar:
            for member in tar:
                key = member.name.partition(".")[0]
                blocks[key] = blocks.get(key, 0) + 1 - -member.size // 512
        assert path.stat().st_size == archive_bytes(sum(blocks[row["key"]] for row in shards[name]))
        assert path.stat().st_size <= 30_000
    for (_, rows), (_, after) in itertools.pairwise(shards.items()):
        larger = archive_bytes(sum(blocks[row["key"]] for row in [*rows, after[0]]))
        assert len(rows) == 6 or larger > 30_000, "a shard ended too early"


def test_one_sample_is_always_packed(source: Source, pack: Pack, tmp_path: Path) -> None:
    source.add(5)
    pack(max_bytes=1)
    assert keys(tmp_path / "out") == [[key] for key in kept(5)]


def test_shuffled(source: Source, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.add(30)
    pack("plain")
    plain = {row["key"]: row for rows in samples(tmp_path / "plain").values() for row in rows}
    pack(shuffle_seed=3)
    shards = samples(tmp_path / "out")
    rows = list(itertools.chain(*shards.values()))
    assert [row["key"] for row in rows] == sorted(
        plain, key=lambda key: hashlib.md5(f"3 {plain[key]['uid']}".encode()).digest()
    ), "an order anyone can compute"
    assert {row["key"]: row for row in rows} == plain, "only the order differs"
    assert [len(shard) for shard in shards.values()] == [4] * 5 + [3]
    assert not list((tmp_path / "out" / "work" / "pack").iterdir())
    monkeypatch.setattr(spread, "_AT_A_TIME", 2)
    monkeypatch.setattr(spread, "_ROWS", 5)
    pack("parts", shuffle_seed=3)
    assert contents(tmp_path / "parts") == contents(tmp_path / "out")
    pack("other", shuffle_seed=4)
    assert keys(tmp_path / "other") != keys(tmp_path / "out")


@pytest.mark.parametrize("shards", [{"rows": 2}, {"rows": 2, "shuffle_seed": 3}, {"max_bytes": 20_000, "tail": "hold"}])
def test_both_runners_pack_the_same(
    source: Source, pack: Pack, tmp_path: Path, ray_session: None, shards: dict[str, Any]
) -> None:
    """As many shards as make it worth while to have Ray's workers write them."""
    source.add(40)
    assert pack("local", **shards).report["shards"] >= 8
    pack("ray", runner="ray", **shards)
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
    fates = [(tmp_path / name / "fates.parquet").read_bytes() for name in ("local", "ray")]
    assert fates[0] == fates[1]


def test_a_shuffled_output_is_mended_and_grows(source: Source, pack: Pack, tmp_path: Path) -> None:
    source.add(30)
    pack(shuffle_seed=3)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "shards" / "00002.tar").unlink()
    (tmp_path / "out" / "shards" / "00004_stats.json").write_text("{")
    assert pack(shuffle_seed=3).report["shards_written"] == 2
    assert contents(tmp_path / "out") == before
    source.add(7)
    assert pack(shuffle_seed=3).report["shards_written"] == 2
    assert sealed(before, contents(tmp_path / "out"))


@pytest.mark.parametrize("seed", [None, 1])
def test_held_over_three_generations(source: Source, pack: Pack, tmp_path: Path, seed: int | None) -> None:
    """6 rows are kept (2 held), then 1 (3 held), 10 (1 held), 2 (3 held)."""
    before: dict[str, bytes] = {}
    held, full = [], []
    for rows in (8, 1, 13, 3):
        source.add(rows)
        results = pack(tail="hold", shuffle_seed=seed)
        report = results.report
        after = contents(tmp_path / "out")
        assert sealed(before, after)
        before = after
        fates = results.fates().to_pylist()
        waiting = [fate["key"] for fate in fates if fate["status"] == "success" and fate["shard"] is None]
        assert report["held"] == len(waiting)
        assert report["kept"] == len(waiting) + sum(map(len, keys(tmp_path / "out")))
        assert all(len(shard) == 4 for shard in keys(tmp_path / "out"))
        if held and report["shards"] > full[-1]:
            first = keys(tmp_path / "out")[full[-1]]
            assert set(first[: len(held)]) == set(held), "what was held comes first"
        held = waiting
        full.append(report["shards"])
    assert full == [1, 1, 4, 4]
    if seed is None:
        assert [*itertools.chain(*keys(tmp_path / "out")), *held] == kept(25)


def test_a_published_shard_that_would_change_is_refused(source: Source, pack: Pack, tmp_path: Path) -> None:
    """A selector that looks at all rows: a shorter caption takes the place of one that was published."""
    source.add(6, ["aaa", "bbb", "ccc", "ddd", "eee", "fff"])
    pack(rule=SHORTEST, rows=2)
    fates = (tmp_path / "out" / "fates.parquet").read_bytes()
    before = contents(tmp_path / "out")
    source.add(1, ["c"])
    with pytest.raises(ConfigError) as refused:
        pack(rule=SHORTEST, rows=2)
    assert "2 of the published shards would change or go, the first is 00001" in str(refused.value)
    assert "--replace" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "out" / "fates.parquet").read_bytes() == fates
    assert contents(tmp_path / "out") == before
    assert not list((tmp_path / "out").glob(".*.tmp"))
    results = pack(rule=SHORTEST, rows=2, replace=True)
    assert keys(tmp_path / "out") == [["000000000", "000000001"], ["000000003", "000000004"], ["000000005"], ["000000006"]]
    assert results.report["shards_written"] == 3
    assert pack(rule=SHORTEST, rows=2).report["shards_written"] == 0


def test_a_run_with_a_limit_seals_nothing(source: Source, tmp_path: Path) -> None:
    source.add(9)
    reader = {"use": "read.webdataset", "path": str(source.folder), "unit_rows": 3}
    config = {"input": reader, "output": str(tmp_path / "out"), "stages": [RULE], "shards": {"rows": 4}}
    pairsift.run(config, runner="local", limit=2)
    assert pairsift.run(config, runner="local").report["shards_written"] == 2


def test_a_source_that_lost_its_end(web: Any, listing: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A payload that was cut short: one clear error, no shard of it; with the payload as it was, the run goes on."""
    source = listing([(web.url(name), "a") for name in sorted(web.files)[:6]])
    stages = [{"use": "download", "allow_private_addresses": True, "image_size": 64}]
    config = {"input": source, "output": str(tmp_path / "out"), "stages": stages, "shards": {"rows": 4}}
    pairsift.run(config, runner="local")
    before = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "shards")
    payload = max((tmp_path / "out" / "work" / "payloads").rglob("*.tar"))
    whole = payload.read_bytes()
    payload.write_bytes(whole[:1500])
    with pytest.raises(OSError, match=f"{payload.name} ends before byte"):
        pairsift.run(config, runner="local")
    assert "00001_stats.json" not in contents(tmp_path / "out")
    assert not any("00001.tar" in name for name in contents(tmp_path / "out"))
    payload.write_bytes(whole)
    pairsift.run(config, runner="local")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("asked", [{"max_bytes": 1000}, {"shuffle_seed": 0}, {"tail": "hold"}])
def test_the_layout_of_img2dataset_goes_with_rows_alone(source: Source, pack: Pack, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^shards: {next(iter(asked))}.* does not go with layout: img2dataset"):
        pack(layout="img2dataset", **asked)


def test_types_survive_a_shuffle(source: Source, pack: Pack, tmp_path: Path) -> None:
    source.add(12)
    pack("plain", rows=50)
    pack(rows=50, shuffle_seed=1)
    plain, shuffled = (pq.read_table(tmp_path / name / "shards" / "00000.parquet") for name in ("plain", "out"))
    assert shuffled.schema == plain.schema
    assert {"share", "boxes", "when"} <= set(plain.column_names)
    assert shuffled.sort_by("key") == plain
