"""Several outputs of one config: each row goes where a rule says, and nothing is computed twice."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.config import load_config
from pairsift.pipeline.outputs import configs_of
from pairsift.pipeline.report.manifest import dump
from pairsift.stages.base import ConfigError

CONFIG_PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"
RULES = {"en": "language = 'en'", "multi": "language <> 'en'", "nolang": "language IS NULL"}
LANGUAGES = ["en", "de", None, "en", "fr", "en"]


@pytest.fixture
def config(tmp_path: Path, web: Any, listing: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    rows = [{"url": web.url(f"coffee.jpg?{i}"), "caption": f"{i}", "language": name} for i, name in enumerate(LANGUAGES)]
    stages = [
        {"use": "filter.where", "keep": "caption <> '5'", "name": "not the last"},
        {"use": "download", "image_size": 32, "allow_private_addresses": True},
    ]
    return {"input": listing(rows, unit_rows=2), "output": str(tmp_path / "out"), "stages": stages, "outputs": RULES}


def test_each_output_has_what_its_rule_takes(config: dict[str, Any], web: Any) -> None:
    results = pairsift.run(config, runner="local")
    kept = {
        name: one.fates().filter(one.fates()["shard"].is_valid())["ordinal"].to_pylist()
        for name, one in results.outputs.items()
    }
    assert kept == {"en": [0, 3], "multi": [1, 4], "nolang": [2]}
    assert len(web.requests) == 5  # one for each row, whichever output it is in
    for name, one in results.outputs.items():
        assert one.report["rows"] == sum(one.report["counts"].values()) == 6
        assert one.report["rejected"] == {"not the last": 1, f"output {name}": 5 - len(kept[name])}
    assert pairsift.open(Path(config["output"]) / "en").report["kept"] == 2


def test_results_without_a_folder_say_where_to_look(config: dict[str, Any]) -> None:
    results = pairsift.run(config, runner="local")
    with pytest.raises(ConfigError, match=r"several outputs .en, multi, nolang.: ask one of `outputs`"):
        results.fates()


def test_the_command_tells_of_each(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    def told(*command: str) -> Any:
        pairsift_ = [sys.executable, "-m", "pairsift.pipeline.cli.main"]
        return json.loads(subprocess.run([*pairsift_, *command, str(file), "--json"], capture_output=True, check=True).stdout)

    assert {name: report["kept"] for name, report in told("run", "--runner", "local").items()} == {
        "en": 2,
        "multi": 2,
        "nolang": 1,
    }
    assert {name: found["complete"] for name, found in told("plan").items()} == dict.fromkeys(RULES, True)
    assert list(told("status")["en"]["report"]["rejected"]) == ["not the last", "output en"]


def test_a_config_without_outputs_is_its_own(config: dict[str, Any]) -> None:
    alone = load_config({**config, "outputs": {}})
    assert configs_of(alone) == [alone]


def test_it_can_be_written_and_loaded_again(config: dict[str, Any]) -> None:
    loaded = load_config(config)
    assert load_config(dump(loaded)) == loaded


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["en"], "outputs: must be a mapping"),
        ({"work": "true"}, "outputs: 'work' is no name for a folder"),
        ({"../en": "true"}, "no name for a folder"),
        ({"en": "random() < 0.5"}, r"outputs.en: the rule .* calls random\(\)"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(config: dict[str, Any], outputs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({**config, "outputs": outputs})


def test_a_column_that_is_not_there(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs the column 'lang'"):
        pairsift.run({**config, "outputs": {"en": "lang = 'en'"}}, runner="local")


def test_a_rare_output_is_no_reason_to_stop(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> None:
    source = captions([f"{i}" for i in range(1500)])
    config = {"input": source, "output": str(tmp_path / "out"), "outputs": {"one": "caption = '7'"}}
    results = pairsift.run(config, runner="local").outputs["one"]
    assert results.report["kept"] == 1
    assert pq.read_table(tmp_path / "out" / "one" / "fates.parquet").num_rows == 1500


def test_buckets_and_a_split_by_hash_of_metadata_alone(tmp_path: Path, listing: Callable[..., dict[str, Any]]) -> None:
    """LAION's aesthetic buckets, of which one lies in the other, and the validation set of docs/config.md and its rest."""
    (by_hash,) = re.findall(r'^  validation: "(.*)"', CONFIG_PAGE.read_text(), re.MULTILINE)
    uids = [hashlib.md5(f"row {n}".encode()).hexdigest() for n in range(500)]
    rows = [
        {"URL": f"http://a.example/{n}.jpg", "TEXT": str(n), "uid": uid, "score": 4 + n / 200} for n, uid in enumerate(uids)
    ]
    outputs = {"4.5": "aesthetic >= 4.5", "6": "aesthetic >= 6", "train": f"NOT ({by_hash})", "validation": by_hash}

    def released(folder: str, rows: list[dict[str, Any]]) -> dict[str, set[int]]:
        columns = {"url": "URL", "caption": "TEXT", "uid": "uid", "aesthetic": "score"}
        source = listing(rows, f"{folder}.parquet", columns=columns)
        output = tmp_path / folder
        pairsift.run({"input": source, "output": str(output), "outputs": outputs, "release": {"subset": True}}, runner="local")
        assert {path.name for path in output.iterdir()} == {*outputs, "work"}
        found = {}
        for name in outputs:
            table = pq.read_table(output / name / "release" / "00000.parquet")
            assert table.column_names == ["URL", "TEXT", "AESTHETIC_SCORE"]
            assert len(np.load(output / name / "release" / "subset.npy")) == len(table)
            assert not (output / name / "shards").exists()
            found[name] = {int(text) for text in table["TEXT"].to_pylist()}
        return found

    held_out = {n for n, uid in enumerate(uids) if int.from_bytes(hashlib.md5(uid.encode()).digest()[8:], "little") % 100 == 0}
    assert 1 <= len(held_out) <= 15
    buckets = {"4.5": {*range(100, 500)}, "6": {*range(400, 500)}}
    expected = {**buckets, "train": {*range(500)} - held_out, "validation": held_out}
    assert released("in order", rows) == expected
    assert released("in reverse", rows[::-1]) == expected
