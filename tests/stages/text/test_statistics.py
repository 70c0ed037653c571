import sys
from typing import Any

import pytest

from pairsift.stages.text.statistics import TextStatistics


def test_words_are_pythons_for_every_character_there_is(answers: Any) -> None:
    texts = [f"a{chr(code)}b {chr(code)}" for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000][:70_000]
    texts += ["", " ", "\x00", "one", " two  words ", "\u3000a\x1cb\x85c\u200bd", "x" * 100_000]
    found = answers(TextStatistics(), texts)
    assert found["words"] == [len(text.split()) for text in texts]
    assert found["characters"] == [len(text) for text in texts]


def test_special_characters(answers: Any) -> None:
    texts = ["abc", "a-b!", "日本 ёж 5", "क्षि", "🙂🙂 ok", "!!!", "", None]
    assert answers(TextStatistics(), texts)["special_share"] == pytest.approx([0, 0.5, 0, 0, 0.4, 1, 0, None])


def test_repetition(answers: Any) -> None:
    texts = ["a cat on a mat", "Buy now buy now BUY NOW ok", "so so so so", "one", "", None]
    pairs = answers(TextStatistics(), texts)
    assert pairs["repetition"] == pytest.approx([0, 5 / 6, 1, 0, 0, None])
    assert pairs["top_ngram"] == pytest.approx([0, 3 / 6, 1, 0, 0, None])
    single = answers(TextStatistics(ngram=1), texts)
    assert single["repetition"] == pytest.approx([2 / 5, 6 / 7, 1, 0, 0, None])
    assert answers(TextStatistics(ngram=5), texts)["repetition"] == [0, 0, 0, 0, 0, None]


@pytest.mark.parametrize(
    ("column", "yes", "no"),
    [
        (
            "has_link",
            ["see https://a.example/b", "WWW.example.com", "mail me@example.org now"],
            ["a dog at 5 p.m.", "@someone", "http", "www"],
        ),
        ("has_markup", ["<b>bold</b>", "fish &amp; chips", "&#39;s", "a<br/>b"], ["a < b > c", "fish & chips; bread", "R&D"]),
        (
            "is_file_name",
            [
                "IMG_0042.JPG",
                "dsc00017",
                " photo (3) ",
                "a-red-dog.webp",
                "image 1",
                "2014-05-03 12.30",
                "P1010042.jpeg",
                "12345",
            ],
            ["a photo of 3 dogs", "photo", "Boeing 747", "jpg files of a dog", "IMG of a cat", "Area 51"],
        ),
    ],
)
def test_patterns(answers: Any, column: str, yes: list[str], no: list[str]) -> None:
    found = answers(TextStatistics(), [*yes, *no, None])[column]
    assert dict(zip([*yes, *no], found, strict=False)) == {**dict.fromkeys(yes, True), **dict.fromkeys(no, False)}
    assert found[-1] is None


def test_another_column() -> None:
    assert TextStatistics(column="alt").reads() == ("alt",)
