"""The Python API as a user's script calls it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pairsift

Listing = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path, web: Any, tiny_clip: Callable[[int], str], listing: Listing) -> dict[str, Any]:
    names = ["coffee.jpg", "missing.jpg", "rocket.jpg", "brick.jpg", "moon.jpg"]
    rows = [{"url": web.url(name), "caption": f"{name} {i}", "rank": i} for i, name in enumerate(names)]
    return {
        "input": listing(rows, unit_rows=2),
        "output": str(tmp_path / "out"),
        "stages": [
            {"use": "filter.where", "keep": "rank <> 3", "name": "not the third"},
            {"use": "download", "image_size": 32, "allow_private_addresses": True, "retries": 0},
            {"use": "embed", "model": tiny_clip(0)},
            {"use": "score.clip_similarity"},
        ],
    }


def test_a_dict_gives_results(config: dict[str, Any], web: Any) -> None:
    results = pairsift.run(config, runner="local")
    assert results.report["kept"] == 3
    assert results.report["counts"] == {
        "success": 3,
        "failed_to_download": 1,
        "failed_to_resize": 0,
        "failed_to_read": 0,
        "failed_to_compute": 0,
        "rejected": 1,
        "duplicate": 0,
        "removed": 0,
    }
    assert results.report["rejected"] == {"not the third": 1}
    assert results.report["failures"] == {"http_404": 1}
    fates = results.fates()
    assert fates["status"].to_pylist() == ["success", "failed_to_download", "success", "rejected", "success"]
    assert fates["shard"].to_pylist() == ["00000", None, "00000", None, "00000"]
    assert fates["url"].to_pylist()[1] == web.url("missing.jpg")
    counted = results.sql("SELECT status, count(*) FROM fates GROUP BY status ORDER BY status").fetchall()
    assert counted == [("failed_to_download", 1), ("rejected", 1), ("success", 3)]


def test_the_ledger_has_every_row_and_every_column(config: dict[str, Any]) -> None:
    results = pairsift.run(config, runner="local")
    ledger = results.ledger()
    assert ledger["ordinal"].to_pylist() == [0, 1, 2, 3, 4]
    assert ledger["rank"].to_pylist() == [0, 1, 2, 3, 4]
    columns = {column for layer in results.plan.layers for column in layer.columns}
    assert {"url", "caption", "width", "sha256", "image_path", "image_embedding", "clip_similarity"} <= columns
    assert set(ledger.column_names) == {"ordinal", *columns}
    assert ledger["width"].is_valid().to_pylist() == [True, False, True, False, True]
    image, text = (np.array(ledger[name][0].as_py()) for name in ("image_embedding", "text_embedding"))
    assert np.linalg.norm(image) == pytest.approx(1, abs=1e-2)
    assert float(image @ text) == pytest.approx(ledger["clip_similarity"][0].as_py(), abs=1e-2)
    joined = "SELECT f.key, l.clip_similarity FROM fates f JOIN ledger l USING (ordinal) WHERE status = 'success' ORDER BY 1"
    assert [key for key, score in results.sql(joined).fetchall() if -1 <= score <= 1] == ["000000000", "000000002", "000000004"]


def test_the_ledger_of_rows_that_no_model_has_seen(config: dict[str, Any]) -> None:
    """A layer of vectors without one committed unit."""
    results = pairsift.run(config, runner="local", overrides=["stages.0.keep=rank > 9"])
    assert results.report["kept"] == 0
    ledger = results.ledger()
    assert len(ledger) == 5
    for column in ("image_embedding", "clip_similarity", "width"):
        assert ledger[column].null_count == 5
    assert results.sql("SELECT count(image_embedding[1]) FROM ledger").fetchall() == [(0,)]


def test_a_path_with_overrides(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    results = pairsift.run(Path("recipe.json"), overrides=["output=elsewhere", "stages.0.keep=rank > 2"], runner="local")
    assert results.config.output == str(tmp_path / "elsewhere")
    assert results.report["kept"] == 2
    assert not (tmp_path / "out").exists()
    assert results.report["config"]["stages"][0]["keep"] == "rank > 2"
    assert pairsift.run(pairsift.load_config("recipe.json"), limit=1, runner="local").report["rows"] == 1


def test_an_output_is_opened_again_from_anywhere(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pairsift.run(config, runner="local")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = pairsift.open("../out")
    assert again.config == first.config
    assert again.report == first.report
    assert again.fates() == first.fates()
    assert again.ledger() == first.ledger()


def test_what_is_no_output_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(pairsift.ConfigError, match="not an output of pairsift"):
        pairsift.open(tmp_path)
    with pytest.raises(pairsift.ConfigError, match="no run has ended here yet"):
        _ = pairsift.Results(pairsift.load_config(config)).report


def test_a_mistake_is_told_before_anything_is_written(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(pairsift.ConfigError, match="did you mean image_size"):
        pairsift.run(config, overrides=["stages.1.image_sise=3"], runner="local")
    with pytest.raises(pairsift.ConfigError, match="there are ray and local"):
        pairsift.run(config, runner="spark")
    assert not (tmp_path / "out" / "shards").exists()


def test_results_outlive_their_input(listing: Listing, tmp_path: Path) -> None:
    source = listing([("http://127.0.0.1/a.jpg", "caption")])
    rule = {"use": "filter.where", "keep": "length(caption) > 3"}
    config = {"input": source, "output": str(tmp_path / "out"), "stages": [rule]}
    pairsift.run(config, runner="local")
    Path(source["path"]).unlink()
    results = pairsift.open(tmp_path / "out")
    assert results.ledger()["caption"].to_pylist() == ["caption"]
    assert results.sql("SELECT status FROM fates").fetchall() == [("success",)]
