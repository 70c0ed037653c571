"""Damage of every kind is found and named, and what the check says to do makes all whole again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.control.lock import hold
from pairsift.pipeline.upkeep.check import Checked, check, fix
from pairsift.pipeline.upkeep.clean import clean
from pairsift.pipeline.upkeep.remove import remove
from pairsift.pipeline.upkeep.why import why
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder


def look(path: Path) -> Checked:
    return check(str(path), lambda _: None)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def header_broken(path: Path) -> None:
    """The second member's header: Python's tarfile takes it for the end."""
    data = bytearray(path.read_bytes())
    place = next(n for n in range(512, len(data), 512) if data[n + 257 : n + 262] == b"ustar")
    data[place] ^= 0xFF
    path.write_bytes(data)


def first_image_broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[512:520] = b"not jpeg"
    path.write_bytes(data)


def overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10 : len(data) - 10] = b"x" * (len(data) - 20)
    path.write_bytes(data)


def one_bit_turned(path: Path) -> None:
    """So that the table can be read, and says something else."""
    data, table = path.read_bytes(), pq.read_table(path)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            other = pq.read_table(path, schema=table.schema)
        except (pa.ArrowException, OSError):
            continue
        if not other.equals(table):
            return
    raise AssertionError(f"{path}: no bit matters")


def test_a_whole_output_has_no_problems(output: Path) -> None:
    found = look(output)
    assert found.problems == []
    assert found.looked["shards"] == len(list(output.glob("shards/*.tar")))
    assert found.looked["samples"] == sum(json.loads((output / "shards" / "sizes.json").read_text()).values())
    assert found.looked["layer files"] == len(list(output.glob("work/layers/*/*/*.parquet")))
    assert found.looked["payloads"] == len(list(output.glob("work/payloads/*/*/*.tar")))
    assert found.looked["fates"] == 13


ROUNDS: dict[str, dict[str, Callable[[Path], None]]] = {
    "tars": {
        "shards/00000.tar": cut_short,
        "shards/00001.tar": header_broken,
        "shards/00002.tar": first_image_broken,
        "shards/00003.tar": Path.unlink,
        "fates.parquet": cut_short,
        "run.json": emptied,
    },
    "tables": {
        "shards/00000.tar": emptied,
        "shards/00001.parquet": cut_short,
        "shards/00002.parquet": overwritten,
        "shards/00003.parquet": Path.unlink,
        "fates.parquet": emptied,
        "run.json": Path.unlink,
    },
    "bits": {
        "shards/00000.parquet": one_bit_turned,
        "fates.parquet": one_bit_turned,
        "work/layers/download-*/*/000000000.parquet": one_bit_turned,
    },
    "JSON": {
        "shards/00001_stats.json": cut_short,
        "shards/00002_stats.json": emptied,
        "shards/00003_stats.json": Path.unlink,
        "shards/sizes.json": emptied,
        "cut.json": emptied,
    },
    "what is missing": {"shards/sizes.json": Path.unlink, "fates.parquet": Path.unlink, "cut.json": Path.unlink},
    "layers": {
        "work/layers/download-*/*/000000000.parquet": cut_short,
        "work/layers/download-*/*/000000001.parquet": emptied,
        "work/layers/download-*/*/000000002.parquet": overwritten,
    },
    "payloads": {
        "work/payloads/download-*/*/000000000-*.tar": cut_short,
        "work/payloads/download-*/*/000000001-*.tar": header_broken,
        "work/payloads/download-*/*/000000002-*.tar": first_image_broken,
        "work/payloads/download-*/*/000000003-*.tar": Path.unlink,
    },
}


@pytest.mark.parametrize("damages", ROUNDS.values(), ids=ROUNDS)
def test_what_is_damaged_is_found_and_made_again(
    damages: dict[str, Callable[[Path], None]],
    output: Path,
    run: Callable[..., Any],
    published: Callable[[Path], dict[str, str]],
) -> None:
    before = published(output)
    for pattern, damage in damages.items():
        [path] = output.glob(pattern)
        damage(path)
        named = {problem.where for problem in look(output).problems}
        assert named & {str(path), str(path.parent)}, pattern  # the folder, where it is the file's absence that is told
    for name in fix(str(output), look(output).problems):
        assert not Path(name).exists()
    run()
    assert published(output) == before
    assert look(output).problems == []


def test_only_the_damaged_unit_is_computed_again(output: Path, run: Callable[..., Any], web: Any) -> None:
    [path] = output.glob("work/layers/download-*/*/000000002.parquet")
    rows = len(pq.read_table(path))
    cut_short(path)
    fix(str(output), look(output).problems)
    assert run().report["rows_computed"]["download"] == rows


def test_a_part_that_is_damaged_takes_the_later_ones_with_it(
    config: dict[str, Any], run: Callable[..., Any], published: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Rows that came alive later are in parts of their own, which nothing finds without the parts before."""
    config["work"] = str(tmp_path / "work")
    few = {"use": "filter.where", "keep": "ordinal % 2 = 0"}
    run(stages=[few, *config["stages"]], output=str(tmp_path / "few"))
    run()
    output = tmp_path / "out"
    before = published(output)
    parts = sorted(tmp_path.glob("work/layers/download-*/*/000000000*.parquet"))
    assert sorted(path.stem for path in parts) == ["000000000", "000000000-1"]
    cut_short(next(path for path in parts if path.stem == "000000000"))
    fix(str(output), look(output).problems)
    assert not any(path.exists() for path in parts)
    run()
    assert published(output) == before
    assert look(output).problems == []


def test_other_things_that_do_not_fit(output: Path) -> None:
    (output / "shards" / "00009.tar").write_bytes(b"")
    sizes = json.loads((output / "shards" / "sizes.json").read_text())
    (output / "shards" / "sizes.json").write_text(json.dumps({**sizes, "00000.tar": 2}))
    report = json.loads((output / "run.json").read_text())
    report["counts"]["success"] += 1
    (output / "run.json").write_text(json.dumps(report))
    shutil.copy(output / "shards" / "00000.parquet", output / "shards" / "00001.parquet")
    told = "\n".join(f"{problem.where} {problem.what}" for problem in look(output).problems)
    assert "00009.tar fates.parquet names no such shard" in told
    assert "sizes.json says 2 samples for 00000.tar, which has 3" in told
    assert "run.json says other counts than fates.parquet" in told
    assert "00001.parquet its rows are not those that fates.parquet puts there" in told


def test_a_work_folder_a_folder_of_shards_and_a_shard(output: Path) -> None:
    cut_short(output / "shards" / "00000.tar")
    [layer] = output.glob("work/layers/input-*/*/000000001.parquet")
    emptied(layer)
    [intake] = look(output / "work").problems
    assert (intake.where, intake.remove) == (str(layer), ())
    assert "if its input files are as they were" in intake.remedy
    assert [problem.where for problem in look(output / "shards").problems] == [str(output / "shards" / "00000.tar")]
    assert len(look(output / "shards" / "00000.tar").problems) == 1
    assert look(output / "shards" / "00001.tar").problems == []


def test_the_input_is_taken_in_again(output: Path, run: Callable[..., Any], published: Callable[[Path], Any]) -> None:
    before = published(output)
    [layer] = output.glob("work/layers/input-*/*/000000001.parquet")
    layer.unlink()
    [problem] = look(output).problems
    named = output / "work" / "generations" / "00000.json"
    assert f"remove {named} and run again" in problem.remedy
    named.unlink()
    run()
    assert published(output) == before


def test_a_work_folder_that_was_lost(output: Path, run: Callable[..., Any], published: Callable[[Path], Any]) -> None:
    before = published(output)
    shutil.rmtree(output / "work")
    [problem] = look(output).problems
    assert (problem.where, problem.what) == (str(output / "work"), "holds nothing")
    with pytest.raises(OSError, match="no generation holds row 3; `pairsift check` says what to do"):
        why(str(output), "000000003")
    run()
    assert published(output) == before


def test_without_cut_json_the_work_folder_inside_is_looked_at(output: Path) -> None:
    (output / "cut.json").unlink()
    assert look(output).looked["generations"] == 1


def test_a_generation_that_was_lost(output: Path, run: Callable[..., Any], published: Callable[[Path], Any]) -> None:
    before = published(output)
    lost = output / "work" / "generations" / "00000.json"
    lost.unlink()
    [problem] = look(output).problems
    assert (problem.where, problem.what) == (str(lost), "is missing: it held unit 0, on which stages have worked")
    run()
    assert published(output) == before
    assert look(output).problems == []


def test_a_generation_that_was_lost_before_another(output: Path, listing: Callable[..., Any], run: Callable[..., Any]) -> None:
    more = listing([("http://example.com/more.jpg", "not to be had")], name="more/rows.parquet")
    run(input={**more, "path": str(output.parent / "**" / "rows.parquet")})
    first = output / "work" / "generations" / "00000.json"
    first.unlink()
    [problem] = look(output).problems
    assert problem.where == str(first.with_name("00001.json"))
    assert problem.remedy == f"put {first} back from a copy"
    assert problem.remove == ()


def test_bodies_as_they_came_are_held_to_their_hash(config: dict[str, Any], run: Callable[..., Any], tmp_path: Path) -> None:
    download = {"use": "download", "allow_private_addresses": True, "disable_all_reencoding": True}
    run(stages=[download])
    output = tmp_path / "out"
    assert look(output).problems == []
    path = output / "shards" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[512 + 2000] ^= 1
    path.write_bytes(data)
    [problem] = look(output).problems
    assert "sha256" in problem.what


def test_nothing_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither an output nor a work folder"):
        look(tmp_path)


def test_the_command(output: Path) -> None:
    """Exit code 1 and a line for each problem; a shard alone can be mended, too, and no lock is left beside it."""
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "check"]
    done = subprocess.run([*command, str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    shard = output / "shards" / "00001.tar"
    cut_short(shard)
    done = subprocess.run([*command, str(shard), "--fix", "--yes"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"{shard}: is damaged: ")
    assert not shard.exists()
    assert not list(output.glob("shards/*.lock"))
    done = subprocess.run([*command, str(output), "--json"], capture_output=True, text=True, check=False)
    assert [problem["where"] for problem in json.loads(done.stdout)["problems"]] == [str(shard)]


def test_nothing_is_removed_while_a_run_is_at_work(output: Path) -> None:
    cut_short(output / "shards" / "00001.tar")
    found = look(output).problems
    with hold(Folder(str(output / "work"))), pytest.raises(ConfigError, match="in use"):
        fix(str(output / "shards"), found)
    assert (output / "shards" / "00001.tar").exists()


@pytest.mark.parametrize("record", ["work/tombstones/00000.parquet", "work/freed/*/00000.parquet", "removed.json"])
def test_records_that_are_damaged(record: str, output: Path) -> None:
    remove(str(output), [("key", "000000007")], yes=True)
    clean([str(output)], yes=True, rejects=True)
    assert look(output).problems == []
    [path] = output.glob(record)
    emptied(path)
    [problem] = look(output).problems
    assert (problem.where, problem.what, problem.remove) == (str(path), "is damaged", ())


def test_a_record_of_retries_that_is_damaged_or_gone(
    output: Path, run: Callable[..., Any], web: Any, config: dict[str, Any]
) -> None:
    config["stages"] = [{"use": "download", "allow_private_addresses": True, "retries": 0, "timeout": 0.4}]
    web.delay = 1.0
    run(replace=True, guard={"max_failed": 1})
    web.delay = 0.0
    run(retry_failed=True)
    path = output / "work" / "retries" / "00001.parquet"
    emptied(path)
    assert [(problem.where, problem.what) for problem in look(output).problems] == [(str(path), "is damaged")]
    path.unlink()
    assert [(problem.where, problem.what) for problem in look(output).problems] == [(str(path), "is missing")]
    with pytest.raises(OSError, match=r"00001\.parquet: is missing, and nothing can make it again; put it back from a copy"):
        run()
