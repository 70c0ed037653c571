"""Images that nobody kept are given up: the shards stay as they are, and a looser rule says what it misses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.upkeep import rejects as module
from pairsift.pipeline.upkeep.check import check
from pairsift.pipeline.upkeep.clean import Cleaning, clean
from pairsift.pipeline.upkeep.payloads import Ranges
from pairsift.stages.base import ConfigError

WIDE = {"use": "filter.where", "keep": "original_width >= 600", "name": "wide enough"}


@pytest.fixture
def config(config: dict[str, Any]) -> dict[str, Any]:
    """Images of more than a page of the disk, of which a rule rejects some."""
    download = {**config["stages"][2], "image_size": 384}
    return {**config, "stages": [*config["stages"][:2], download, WIDE]}


def looser(config: dict[str, Any], *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [*config["stages"][:3], *more]


def give_up(output: Path, *, yes: bool = True) -> Cleaning:
    [cleaning] = clean([str(output)], yes=yes, rejects=True)
    return cleaning


def fates(output: Path) -> dict[str, str]:
    """URL → code of the failure, or status; a row that were there twice would be missed."""
    table = pq.read_table(output / "fates.parquet").to_pylist()
    assert len({row["ordinal"] for row in table}) == len(table) == 13
    return {row["url"] + row["uid"]: row["code"] or row["status"] for row in table}


def room(output: Path) -> int:
    """Bytes that payloads take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in output.glob("work/payloads/**/*.tar"))


def lost(fates: dict[str, str]) -> set[str]:
    return {name for name, fate in fates.items() if fate == "image_freed"}


def test_shards_and_fates_stay_and_nothing_is_computed(
    output: Path, run: Callable[..., Any], web: Any, published: Callable[[Path], dict[str, str]]
) -> None:
    before, sizes = published(output), room(output)
    told = give_up(output, yes=False)
    assert room(output) == sizes
    [images] = [kind for kind in told.kinds if "none of these keeps" in kind.what]
    assert images.bytes > 0
    give_up(output)
    assert sizes - room(output) >= images.bytes
    assert check(str(output), lambda _: None).problems == []
    web.requests.clear()
    assert run(replace=True).report["rows_computed"] == {"download": 0}
    assert web.requests == []
    assert published(output) == before
    assert not [kind for kind in give_up(output).kinds if "none of these keeps" in kind.what]


def test_a_looser_rule_misses_them_and_has_them_fetched_again_on_request(
    output: Path, run: Callable[..., Any], config: dict[str, Any], web: Any
) -> None:
    rejected = {name for name, fate in fates(output).items() if fate == "rejected"}
    give_up(output)
    web.requests.clear()
    run(stages=looser(config), replace=True)
    missed = lost(fates(output))
    assert len(missed) >= 2
    assert missed < rejected  # the short caption has no image
    assert web.requests == []
    run(stages=looser(config), replace=True, retry_failed=True)
    assert {fate for name, fate in fates(output).items() if name in missed} == {"success"}
    assert len(web.requests) == len(missed)
    assert check(str(output), lambda _: None).problems == []
    strict = run(replace=True)
    assert {name for name, fate in fates(output).items() if fate == "rejected"} == rejected
    assert strict.report["rows_computed"] == {"download": 0}


def test_another_stage_does_not_look_at_holes(output: Path, run: Callable[..., Any], config: dict[str, Any]) -> None:
    give_up(output)
    before = fates(output)
    blur = {"use": "image.statistics"}
    run(stages=[*config["stages"][:3], blur, WIDE], replace=True)
    after = fates(output)
    assert lost(after) == {name for name, fate in before.items() if fate == "rejected" and after[name] != "rejected"}
    assert {name for name, fate in after.items() if fate == "success"} == {n for n, fate in before.items() if fate == "success"}
    run(stages=[*config["stages"][:3], blur, WIDE], replace=True, retry_failed=True)
    assert fates(output) == before


def test_duplicates_of_what_was_freed(output: Path, run: Callable[..., Any], config: dict[str, Any], tmp_path: Path) -> None:
    """A row without its image is no duplicate's keeper once it was tried again. Each time may show another one of a cluster."""
    give_up(output)
    stages = looser(config, {"use": "dedup.exact", "by": ["image_format"]})
    run(stages=stages, replace=True)
    times = 0
    while lost(fates(output)):
        run(stages=stages, replace=True, retry_failed=True)
        times += 1
    assert 1 <= times <= 5
    run(stages=stages, output=str(tmp_path / "fresh"))
    ends = [sorted(fates(folder).values()) for folder in (output, tmp_path / "fresh")]
    assert ends[0] == ends[1]


def test_killed_between_the_note_and_the_holes(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    before = room(output)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_make_holes", die)
        with pytest.raises(KeyboardInterrupt):
            give_up(output)
    assert room(output) == before
    assert check(str(output), lambda _: None).problems == []
    give_up(output)
    assert room(output) < before


def test_a_run_that_has_not_ended_is_refused(
    output: Path, run: Callable[..., Any], config: dict[str, Any], tmp_path: Path, listing: Callable[..., dict[str, Any]]
) -> None:
    for path in output.glob("work/layers/download-*/*/*.parquet"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"rows wait for download; run the config"):
        give_up(output)


def test_the_command(output: Path) -> None:
    command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "clean", "--rejects"]
    done = subprocess.run([*command, str(output)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "images of rows that none of these keeps" in done.stdout


def test_pages_within_an_image() -> None:
    ranges: Ranges = {"a": [(0, 4096), (512, 4096), (512, 8000), (4096, 8192), (1, 10)]}
    assert [module._pages(place) for place in ranges["a"]] == [4096, 0, 4096, 8192, 0]
