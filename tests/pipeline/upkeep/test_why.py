"""What became of a row, told in words: kept, failed, rejected, a duplicate, waiting, unknown."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.upkeep.why import Story, why
from pairsift.stages.base import ConfigError


def only(output: Path, wanted: str) -> Story:
    [story] = why(str(output), wanted)
    return story


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pairsift.pipeline.cli.main", *arguments], capture_output=True, text=True, check=False
    )


def outcomes(story: Story) -> list[str]:
    return [said.outcome for said in story.steps]


def test_a_row_that_was_kept(output: Path, config: dict[str, Any]) -> None:
    story = only(output, "0")
    assert outcomes(story) == ["passed", "passed", "wrote", "passed"]
    assert story.verdict == f"kept: {output}/shards/00000.tar as 000000000"
    assert story.came_in["caption"].startswith("caption ")
    assert story.steps[2].values["original_width"] >= 300
    assert only(output, story.uid) == only(output, story.key) == story
    assert story.fate is not None
    assert story.fate["status"] == "success"


def test_a_row_that_failed(output: Path, web: Any) -> None:
    story = only(output, web.url("missing.jpg"))
    assert outcomes(story) == ["passed", "passed", "failed"]
    assert "http_404, 404 Not Found" in story.steps[-1].text
    assert story.steps[-1].values == {"failure": "http_404", "transient": False}
    assert story.verdict.startswith("failed_to_download: http_404")


def test_a_row_that_a_filter_took(output: Path, web: Any) -> None:
    story = only(output, web.url("x.jpg"))
    assert outcomes(story) == ["took"]
    assert story.steps[0].text == "length(caption) > 3 is not true: length(caption) = 3"
    assert story.steps[0].values == {"caption": "abc"}
    assert story.verdict == "rejected: by length(caption) > 3"


def test_a_duplicate(output: Path, web: Any) -> None:
    first, second = why(str(output), web.url(min(web.files)))
    assert (first.ordinal, second.ordinal) == (0, 4)
    assert outcomes(second) == ["passed", "took"]
    assert second.steps[1].text == f"a duplicate of 000000000 ({first.came_in['url']}, in shard 00000)"


def test_a_row_that_was_tried_again(output: Path, run: Callable[..., Any], config: dict[str, Any], web: Any) -> None:
    config["stages"] = [{"use": "download", "allow_private_addresses": True, "retries": 0, "timeout": 0.4}]
    web.delay = 1.0
    run(replace=True, guard={"max_failed": 1})
    web.delay = 0.0
    run(retry_failed=True)
    story = only(output, "000000001")
    assert (story.generation, story.sources) == (1, [config["input"]["path"]])
    assert story.verdict.startswith("kept:")


def test_before_the_run_has_ended(config: dict[str, Any], tmp_path: Path, web: Any) -> None:
    """The first unit is there, whole; of the others, the input only."""
    from pairsift.pipeline.config import load_config
    from pairsift.pipeline.run import Options, run

    run(load_config({**config, "shards": {"rows": 1}}), Options(runner="local", limit=4))
    out = tmp_path / "out"
    [first, second] = why(str(out), web.url(min(web.files)))
    assert outcomes(first) == ["passed", "open", "wrote", "passed"]
    assert first.verdict.startswith("if duplicate url lets it pass: alive")
    assert outcomes(second) == ["passed", "open", "waits"]
    assert second.verdict == "if duplicate url lets it pass: waits for download"
    (out / "fates.parquet").unlink()
    (out / "run.json").unlink()
    assert [story.verdict for story in why(str(out), first.uid)] == [first.verdict]


def test_a_shard_that_is_not_written_yet(output: Path) -> None:
    (output / "shards" / "00000_stats.json").unlink()
    assert "not written yet" in only(output, "000000000").verdict


def test_the_layout_of_img2dataset_has_keys_of_its_own(run: Callable[..., Any], tmp_path: Path) -> None:
    run(shards={"rows": 3, "layout": "img2dataset"})
    assert only(tmp_path / "out", "7").verdict.endswith("/shards/00002.tar as 000021")


def test_text_of_strangers_does_not_reach_the_terminal(tmp_path: Path, listing: Callable[..., Any], curate: Any) -> None:
    curate(listing([("http://a.example/1", "bell \a, red \x1b[31m, turned \u202e, two\nlines")]))
    done = command("why", "0", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert r"bell \x07, red \x1b[31m, turned \u202e, two\nlines" in done.stdout
    assert not {"\a", "\x1b", "\u202e"} & set(done.stdout)
    done = command("why", "0", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)[0]["came_in"]["caption"].startswith("bell \a")
    assert not {"\a", "\x1b", "\u202e"} & set(done.stdout)


def test_what_is_not_there(output: Path, tmp_path: Path) -> None:
    done = command("why", "http://nowhere.example/\x1b[2J", str(output))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no row has the URL, key or uid" in done.stderr
    assert "\x1b" not in done.stderr
    with pytest.raises(ConfigError, match="not an output"):
        why(str(tmp_path / "nowhere"), "0")
