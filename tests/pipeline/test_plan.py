"""What a layer's name depends on, and what is refused before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pairsift_toys.words import Words

from pairsift.pipeline.config import load_config
from pairsift.pipeline.plan import Plan, fingerprint, make_plan
from pairsift.stages.base import ConfigError

DOWNLOAD = {"use": "download", "image_size": 64, "contact": "https://crawl.example/"}
SCORE = {"use": "score.clip_similarity"}
WORDS = {"use": "pairsift_toys.words", "log": "/tmp/a"}


@pytest.fixture
def planned(captions: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Plan]:
    source = captions(["a", "b"])

    def plan(*stages: dict[str, Any], **rest: Any) -> Plan:
        return make_plan(load_config({"input": source, "output": str(tmp_path / "out"), "stages": list(stages), **rest}))

    return plan


def layers(plan: Plan) -> dict[str, str]:
    """Label of a stage → its layer's name."""
    return {step.label: step.layer.name for step in plan.steps if step.layer}


@pytest.fixture
def model(tiny_clip: Callable[[int], str]) -> dict[str, Any]:
    return {"use": "embed", "model": tiny_clip(0)}


def test_a_layer_changes_with_what_its_values_depend_on(
    planned: Callable[..., Plan], model: dict[str, Any], tiny_clip: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = layers(planned(DOWNLOAD, model, SCORE, WORDS))
    other_size = layers(planned(DOWNLOAD | {"image_size": 65}, model, SCORE, WORDS))
    assert changed(base, other_size) == {"download", "embed", "score.clip_similarity"}
    other_model = layers(planned(DOWNLOAD, model | {"model": tiny_clip(1)}, SCORE, WORDS))
    assert changed(base, other_model) == {"embed", "score.clip_similarity"}
    monkeypatch.setattr(Words, "version", 2)
    assert changed(base, layers(planned(DOWNLOAD, model, SCORE, WORDS))) == {"pairsift_toys.words"}


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    assert set(one) == set(other)
    return {label for label in one if one[label] != other[label]}


def test_a_layer_does_not_change_with_how_it_is_come_by(
    planned: Callable[..., Plan], model: dict[str, Any], tmp_path: Path
) -> None:
    base = layers(planned(DOWNLOAD, model, SCORE, WORDS))
    operational = {"timeout": 77, "retries": 0, "connections": 3, "contact": "me@example.com"}
    wide = {"resources": {"cpus": 3, "workers": [1, 4]}}
    with_rules = [
        {"use": "filter.where", "keep": "length(caption) > 1"},
        {"use": "dedup.exact", "by": ["url"]},
        WORDS | {"log": "/elsewhere"},  # the order of stages that do not read each other
        DOWNLOAD | operational | wide,
        {"use": "filter.where", "keep": "width > 3"},
        model | {"batch_size": 3} | wide,
        SCORE | wide,
    ]
    assert changed(base, layers(planned(*with_rules, output=str(tmp_path / "x"), work=str(tmp_path / "y")))) == set()


def test_the_input_layer_depends_on_how_files_are_read_not_on_where_they_lie(
    listing: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def intake(source: dict[str, Any]) -> str:
        return make_plan(load_config({"input": source, "output": str(tmp_path / "out")})).intake.name

    rows = [{"url": "u", "caption": "c", "rank": 1}]
    here = listing(rows)
    assert intake(here) == intake(listing(rows, "there/rows.parquet"))
    assert intake(here) != intake(here | {"unit_rows": 5})
    assert intake(here) != intake(here | {"columns": {"url": "url", "caption": "url"}})
    assert intake(here) != intake(here | {"extra": []})
    assert intake(here) != intake(listing([{"url": "u", "caption": "c", "rank": "1"}], "text.parquet"))


def test_the_cut_depends_on_every_rule_and_its_place(planned: Callable[..., Plan]) -> None:
    one, two = ({"use": "filter.where", "keep": f"length(caption) > {n}"} for n in (1, 2))
    prints = [
        planned(WORDS).cut_fingerprint(),
        planned(WORDS, one).cut_fingerprint(),
        planned(one, WORDS).cut_fingerprint(),
        planned(WORDS, two).cut_fingerprint(),
        planned(WORDS, one, two).cut_fingerprint(),
        planned(WORDS, one | {"name": "another name"}).cut_fingerprint(),
        planned(WORDS, shards={"rows": 3}).cut_fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert planned(WORDS | {"log": "/elsewhere"}, one).cut_fingerprint() == prints[1]


def test_a_fingerprint_is_the_same_everywhere() -> None:
    assert fingerprint("a", {"b": 1, "c": [None, 0.5]}, "ü") == fingerprint("a", {"c": [None, 0.5], "b": 1}, "ü")
    assert fingerprint("a", 1) == "c3fdc3a6eae10e0777d7"


def test_as_puts_a_prefix_before_what_a_stage_writes(planned: Callable[..., Plan]) -> None:
    plan = planned(WORDS, WORDS | {"as": "again"}, {"use": "filter.where", "keep": "words = again_words"})
    assert [step.layer.columns for step in plan.steps[:2] if step.layer] == [("words",), ("again_words",)]
    assert [step.label for step in plan.steps[:2]] == ["pairsift_toys.words", "pairsift_toys.words as again"]
    assert plan.layer_of("again_words") == plan.steps[1].layer
    assert plan.steps[0].layer != plan.steps[1].layer


def test_a_row_has_one_image_whatever_the_prefix(planned: Callable[..., Plan]) -> None:
    layer = planned(DOWNLOAD | {"as": "small"}).layers[1]
    assert layer.columns[:5] == ("image_path", "image_offset", "image_length", "image_format", "small_width")
    assert "image" not in layer.columns


def test_segments_lie_between_selectors(planned: Callable[..., Plan]) -> None:
    dedup = {"use": "dedup.exact", "by": ["url"]}
    assert planned(WORDS).segments() == [(0, 1)]
    assert planned().segments() == [(0, 0)]
    assert planned(dedup, WORDS, dedup).segments() == [(0, 0), (1, 2), (3, 3)]
    assert planned(WORDS, dedup, dedup, WORDS | {"as": "b"}).segments() == [(0, 1), (2, 2), (3, 4)]


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        ([SCORE], ("stages[0] (score.clip_similarity)", "'image_embedding'", "nothing before it writes")),
        ([{"use": "filter.where", "keep": "capton = 'x'"}], ("stages[0] (filter.where)", "'capton'", "did you mean caption?")),
        ([{"use": "filter.where", "keep": "words > 2"}, WORDS], ("stages[0]", "'words'")),
        ([WORDS, {"use": "filter.where", "keep": "words"}], ("stages[1]", "INTEGER", "compare it")),
        ([{"use": "filter.where", "keep": "caption > "}], ("stages[0]", "not valid SQL")),
        ([{"use": "filter.where", "keep": "random() > 0.5"}], ("stages[0]", "random()")),
        ([{"use": "dedup.exact", "by": ["sha256"]}], ("stages[0] (dedup.exact)", "'sha256'")),
        ([WORDS, WORDS], ("stages[1] (pairsift_toys.words)", "'words'", "as: NAME")),
        ([DOWNLOAD, DOWNLOAD | {"as": "b"}], ("stages[1] (download)", "'image_path'")),
        ([{"use": "embed", "model": "/no/such/folder"}], ("stages[0] (embed)", "'image'")),
        ([DOWNLOAD, {"use": "embed", "model": "/no/such/folder"}], ("stages[1] (embed)", "/no/such/folder")),
        ([DOWNLOAD | {"image_size": 16, "min_image_size": -1}], ("stages[0] (download)", "min_image_size")),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(
    planned: Callable[..., Plan], stages: list[dict[str, Any]], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        planned(*stages)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_planning_writes_nothing(planned: Callable[..., Plan], tmp_path: Path) -> None:
    planned(DOWNLOAD, WORDS)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
