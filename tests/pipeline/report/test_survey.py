"""What `plan` and `status` say of work that is left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.cli.show import forecast
from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut import dealt
from pairsift.pipeline.report.survey import survey
from pairsift.pipeline.run import Options, run
from pairsift.stages.base import ConfigError


@pytest.fixture
def make(web: Any, listing: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Any]:
    names = ["coffee.jpg", "missing.jpg", "moon.jpg", "rocket.jpg", "brick.jpg", "coins.jpg"]
    source = listing([(web.url(name), name) for name in names], unit_rows=2)

    def config(keep: str, rows: int = 2) -> Any:
        download = {"use": "download", "image_size": 64, "allow_private_addresses": True, "retries": 0}
        stages = [{"use": "filter.where", "keep": keep}, download, {"use": "pairsift_toys.broken"}]
        return load_config({"input": source, "output": str(tmp_path / "out"), "stages": stages, "shards": {"rows": rows}})

    return config


def test_what_a_looser_rule_will_cost(make: Callable[..., Any]) -> None:
    run(make("ordinal < 4"), Options(runner="local"))
    found = survey(make("ordinal < 6"))
    download, letters = found.steps[1], found.steps[2]
    assert (download.done, download.waiting, letters.waiting) == (4, 2, 0)
    assert download.bytes_done
    assert download.bytes_waiting == round(download.bytes_done / 4 * 2)
    assert download.seconds_waiting is not None
    assert download.why == "rows that came alive or were not reached"
    assert found.shards is None, "not known before the rows are"
    assert any(line.startswith("to compute: 2 rows at download, about 0.0 MB of images") for line in forecast(found))


def test_what_packing_would_do(make: Callable[..., Any], tmp_path: Path) -> None:
    new = survey(make("true"))
    assert [step.why for step in new.steps] == [None] * 3, "no row was taken in"
    run(make("true"), Options(runner="local"))
    same = survey(make("true")).shards
    assert same is not None
    assert (same.wanted, same.unchanged, same.to_write, same.to_remove, same.bytes_to_write) == (3, 3, 0, 0, 0)
    sizes = sum(path.stat().st_size for path in (tmp_path / "out" / "shards").glob("*.tar"))
    fewer = survey(make("caption <> 'moon.jpg'")).shards
    assert fewer is not None
    assert (fewer.wanted, fewer.unchanged, fewer.to_write, fewer.to_remove) == (2, 0, 2, 1)
    whole = survey(make("true", rows=9)).shards
    assert whole is not None
    assert (whole.to_write, whole.to_remove) == (1, 2)
    assert 0.5 < whole.bytes_to_write / sizes < 2
    told = forecast(survey(make("true", rows=9)))
    assert f"shards: 1, of which 0 are there; 1 to write, {whole.bytes_to_write / 1e6:.1f} MB, 2 to remove" in told


def test_whether_a_run_needs_replace(make: Callable[..., Any]) -> None:
    """It says what the run would say, before the run does."""
    assert survey(make("true")).replaced is None
    run(make("ordinal < 4"), Options(runner="local", limit=3))
    assert survey(make("true")).replaced is None, "with --limit nothing is published"
    run(make("ordinal < 4"), Options(runner="local"))
    assert survey(make("ordinal < 4")).replaced is None
    assert survey(make("ordinal < 4"), limit=2).replaced == "its published shards are of all rows, without --limit"
    found = survey(make("ordinal < 6"))
    assert found.replaced == "its published shards were cut by another config"
    assert f"a run is refused without --replace: {found.replaced}" in forecast(found)
    with pytest.raises(ConfigError, match=found.replaced):
        run(make("ordinal < 6"), Options(runner="local"))


def test_a_percentile_that_new_rows_move_needs_replace(listing: Callable[..., Any], web: Any, tmp_path: Path) -> None:
    def config(*scores: float, file: str) -> Any:
        rows = [{"url": web.url("coffee.jpg") + f"?{score}", "caption": "c", "score": score} for score in scores]
        source = {**listing(rows, name=file), "path": str(tmp_path / "*.parquet")}
        download = {"use": "download", "image_size": 64, "allow_private_addresses": True, "retries": 0}
        best = {"use": "select.top_fraction", "by": "source_score", "fraction": 0.4, "frozen": False}
        return load_config({"input": source, "output": str(tmp_path / "out"), "stages": [download, best]})

    run(config(0.1, 0.2, 0.3, 0.4, file="a.parquet"), Options(runner="local"))
    second = config(0.8, 0.9, 0.95, file="b.parquet")
    with pytest.raises(ConfigError, match="1 of the published shards would change"):
        run(second, Options(runner="local"))
    found = survey(second)
    assert found.replaced is not None
    assert found.replaced.startswith("1 of the published shards would change or go, the first is 00000: new rows moved")


def test_a_stage_that_never_ran(make: Callable[..., Any]) -> None:
    run(make("true"), Options(runner="local"))
    config = make("true")
    changed = config.model_copy(update={"stages": (*config.stages[:2], config.stages[2].model_copy(update={"as_": "again"}))})
    step = survey(changed).steps[2]
    assert (step.done, step.waiting, step.bytes_waiting) == (0, 5, None)
    assert step.why == "never run with these parameters on these columns"


def test_how_selectors_are_dealt_out(
    captions: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"use": "dedup.exact", "by": ["url"]}, {"use": "pairsift_toys.shortest"}]
    config = load_config({"input": captions(["a", "b"]), "output": str(tmp_path / "out"), "stages": stages})
    run(config, Options(runner="local"))
    assert [step.dealt for step in survey(config).steps] == [None, None]
    monkeypatch.setattr(dealt, "ROWS_ALONE", 1)
    monkeypatch.setattr(dealt, "_ROWS_OF_A_PARTITION", 1)
    assert survey(config).steps[0].dealt == "dealt out to tasks, in up to 2 partitions, if it runs on Ray"
    monkeypatch.setattr(type(config.stages[1]), "key", lambda self: ())
    assert survey(config).steps[1].dealt == "one process sees all rows: this rule cannot be dealt out"
    asked = survey(config.model_copy(update={"cut_partitions": 6}))
    assert asked.steps[0].dealt == "dealt out to tasks, in 6 partitions"
    assert "duplicate url: dealt out to tasks, in 6 partitions" in forecast(asked)
