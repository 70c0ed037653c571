"""Every mistake in a config is told in one line that says where it is and what would be right."""

import json
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.config import catalog, load_config, resolve
from pairsift.pipeline.report.manifest import dump
from pairsift.stages.base import ConfigError, Filter, Reader, Selector, Stage

READ = {"use": "read.urls", "path": "urls.parquet"}


def config(*stages: Any, **rest: Any) -> dict[str, Any]:
    return {"input": READ, "output": "out", "stages": list(stages), **rest}


def told(source: Any, *parts: str, overrides: tuple[str, ...] = ()) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(source, overrides)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (config({"use": "downlaod"}), ("stages[0]", "unknown stage 'downlaod'", "did you mean download?")),
        (config({"use": "zzz"}), ("stages[0]", "there are: dedup.against, dedup.exact")),
        (config({"use": "sql"}), ("stages[0]", "unknown stage 'sql'")),
        (config({"use": "no.such_package.stage"}), ("stages[0]", "unknown stage 'no.such_package.stage'")),
        (config({"use": "os.path"}), ("stages[0]", "os.path", "exactly one")),
        (config({"use": "../x"}), ("stages[0]", "'../x'", "not a module path")),
        (config({"use": "read.urls", "path": "x"}), ("stages[0] (read.urls)", "a stage, a filter or a selector")),
        (config(input={"use": "download"}), ("input (download)", "needs a reader")),
        (config(input="urls.parquet"), ("input", "use: NAME", "'urls.parquet'")),
        (config(input={"use": "read.urls"}), ("input (read.urls)", "path: missing")),
        (config({"keep": "true"}), ("stages[0]", "use: NAME")),
        (config("download"), ("stages[0]", "use: NAME", "'download'")),
        (config({"use": 3}), ("stages[0]", "use: NAME")),
        (config({"use": "download", "image_sise": 3}), ("stages[0] (download)", "image_sise", "did you mean image_size?")),
        (config({"use": "download", "image_size": "big"}), ("stages[0] (download)", "image_size", "'big'")),
        (config({"use": "download", "timeout": -1}), ("timeout", "greater than 0", "-1")),
        (config({"use": "download", "resources": {"gpu": 1}}), ("stages[0] (download)", "resources.gpu", "unknown parameter")),
        (config({"use": "download", "resources": {"cpus": 0}}), ("resources.cpus", "greater than 0", "0")),
        (config({"use": "download", "resources": {"workers": "many"}}), ("resources.workers", "'many'")),
        (config({"use": "download", "as": "No Good"}), ("as", "'No Good'")),
        (config({"use": "filter.where"}), ("stages[0] (filter.where)", "keep: missing")),
        (config({"use": "filter.where", "keep": ["a", "b"]}), ("keep", "valid string")),
        ({"output": "out"}, ("input: missing",)),
        ({"input": READ}, ("output: missing",)),
        (config(ouput="x"), ("ouput", "did you mean output?")),
        (config(output=["x"]), ("output", "a path or a URL", "['x']")),
        (config(work=3), ("work", "a path or a URL")),
        (config(shards={"row": 3}), ("shards", "row", "did you mean rows?")),
        (config(shards={"rows": 0}), ("shards", "rows", "greater than 0")),
        (config(shards=3), ("shards", "dictionary")),
        ({**config(), "cut_memory": "1 GB"}, ("cut_memory", "16777216", "'1 GB'")),
        ({**config(), "cut_memory": 1000}, ("cut_memory", "at least", "1000")),
        ({**config(), "cut_partitions": 0}, ("cut_partitions", "from 1 to 10000", "0")),
        ({**config(), "cut_partitions": "all"}, ("cut_partitions", "a number", "'all'")),
        ({**config(), "stages": {"use": "download"}}, ("stages", "a list")),
    ],
)
def test_what_is_wrong_is_told_in_one_line(source: dict[str, Any], parts: tuple[str, ...]) -> None:
    told(source, *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("input: [", "not valid YAML"),
        ("input: {a: b}\n  output: c", "not valid YAML"),
        ("day: 2020-99-99", "not valid YAML"),
        ("- use: download", "a config is a mapping"),
        ("just words", "a config is a mapping"),
        ("", "a config is a mapping"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    told(path, str(path), part)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    told(tmp_path / "none.yaml", "none.yaml", "no such config file")
    told(tmp_path, str(tmp_path), "cannot be read")
    (tmp_path / "latin.yaml").write_bytes(b"output: gr\xf6\xdfer")
    told(tmp_path / "latin.yaml", "latin.yaml", "cannot be read")


@pytest.mark.parametrize(
    "override",
    [
        "stages.0",
        "=x",
        "stages.7.keep=true",
        "stages.x.keep=true",
        "output.deeper=3",
        "stages.0.keep.deeper=3",
        "output=[",
        "x=]",
    ],
)
def test_an_override_of_no_place(override: str) -> None:
    told(config({"use": "filter.where", "keep": "true"}), "--set", override, overrides=(override,))


def test_overrides_are_yaml_and_reach_everywhere() -> None:
    changes = [
        "stages.0.keep=length(caption) > 5",
        "shards.rows=7",
        "input.columns={url: URL}",
        "input.unit_rows=3",
        "output=/x",
    ]
    loaded = load_config(config({"use": "filter.where", "keep": "true"}), changes)
    assert loaded.stages[0].keep == "length(caption) > 5"  # type: ignore[union-attr]
    assert loaded.shards.rows == 7
    assert loaded.input.columns == {"url": "URL"}  # type: ignore[attr-defined]
    assert loaded.input.unit_rows == 3
    assert (loaded.output, loaded.work) == ("/x", "/x/work")
    told(config(), "nothing", overrides=("nothing.here=1",))


def test_the_environment_comes_in_only_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://mine")
    monkeypatch.delenv("NOWHERE", raising=False)
    loaded = load_config({**config(), "input": {**READ, "path": ["${BUCKET}/a.csv", "$BUCKET"]}, "output": "${BUCKET}/out"})
    assert loaded.output == "s3://mine/out"
    assert loaded.work == "s3://mine/out/work"
    assert loaded.input.path == ["s3://mine/a.csv", "$BUCKET"]  # type: ignore[attr-defined]
    told(config(output="${NOWHERE}/x"), "${NOWHERE}", "environment")
    told(config(), "${NOWHERE}", overrides=("output=${NOWHERE}",))


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config(config(work="../work"))
    assert loaded.output == str(tmp_path / "out")
    assert loaded.work == str(tmp_path.parent / "work")


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    recipe = config({"use": "download", "as": "x", "resources": {"workers": [1, 2]}}, shards={"rows": 5})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe, indent=2))
    (tmp_path / "recipe.yaml").write_text(
        "input: {use: read.urls, path: urls.parquet}\noutput: out\n"
        "stages:\n  - use: download\n    as: x\n    resources: {workers: [1, 2]}\nshards: {rows: 5}\n"
    )
    loaded = load_config(tmp_path / "recipe.json")
    assert loaded == load_config(tmp_path / "recipe.yaml") == load_config(recipe)
    assert loaded.stages[0].as_ == "x"  # type: ignore[union-attr]
    assert loaded.stages[0].resources.workers == (1, 2)  # type: ignore[union-attr]
    assert load_config(dump(loaded)) == loaded


def test_a_dict_may_hold_paths(tmp_path: Path) -> None:
    loaded = load_config({"input": {"use": "read.urls", "path": [tmp_path / "a.csv"]}, "output": tmp_path / "out"})
    assert loaded.input.path == [str(tmp_path / "a.csv")]  # type: ignore[attr-defined]
    assert loaded.output == str(tmp_path / "out")


def test_a_config_does_not_change_the_dict_it_came_from() -> None:
    source = config({"use": "filter.where", "keep": "true"})
    before = json.dumps(source)
    load_config(source, ["stages.0.keep=1 > 2", "shards.rows=1"])
    assert json.dumps(source) == before


def test_stages_of_the_users_own_package() -> None:
    assert resolve("pairsift_toys.words").__name__ == "Words"
    told(config({"use": "pairsift_toys"}), "pairsift_toys", "exactly one")
    told(config({"use": "pairsift_toys.word"}), "unknown stage 'pairsift_toys.word'")


def test_the_catalog_names_what_resolves() -> None:
    found = {use: resolve(use) for use in catalog()}
    for kind, use in ((Reader, "read.urls"), (Stage, "download"), (Filter, "filter.where"), (Selector, "dedup.exact")):
        assert issubclass(found[use], kind)
    assert not [use for use in found if use.startswith(("download.", "embed."))], "modules of a stage are its own affair"


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("input: {use: read.urls, path: a}\noutput: one\noutput: two\n")
    with pytest.raises(ConfigError, match="'output' stands there twice"):
        load_config(path)


def test_a_package_whose_own_import_fails_is_not_called_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mylab_with_a_gap"
    package.mkdir()
    (package / "__init__.py").write_text("import a_module_that_nobody_has\n")
    (package / "scorer.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="a_module_that_nobody_has"):
        resolve("mylab_with_a_gap.scorer")
