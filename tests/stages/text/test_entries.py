import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.entries import Entries


def by_hand(text: str, entries: list[str]) -> list[int]:
    """The paper's matching, entry by entry."""
    spaced = f" {text} "
    for mark in ",.;:?!`":
        spaced = spaced.replace(mark, f" {mark} ")
    for blank in "\t\n\r":
        spaced = spaced.replace(blank, " ")
    return [place for place, entry in enumerate(entries) if f" {entry} " in spaced]


def test_it_matches_what_the_paper_matches(answers: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["cat", "Cat", "a", "the", "dog's", "new york", "日本", "🙂", "a.b", "U.S.", "x,y", "hot-dog", "ёж", "aa", "aaa"]
    entries = [
        *words,
        "a cat",
        "cat a",
        "the the",
        "cat",
        "new",
        "york times",
        *(" ".join(rng.choices(words, k=2)) for _ in range(200)),
    ]
    (tmp_path / "metadata.json").write_text(json.dumps(entries))
    joints = [" ", "  ", "\n", "\t", ",", ". ", "!", "?", "`", "", "-", "\u00a0", " a "]
    texts = ["".join(w + rng.choice(joints) for w in rng.choices(words, k=rng.randint(0, 12))) for _ in range(3000)]
    found = answers(Entries(path=str(tmp_path / "metadata.json")), [*texts, None])["entries"]
    assert found == [*(by_hand(text, entries) for text in texts), None]
    assert sum(map(len, found[:-1])) > 5000


def test_a_list_of_lines(answers: Any, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("cat\n\ndog\n  \n")
    with gzip.open(tmp_path / "q.txt.gz", "wt") as stream:
        stream.write("cat\n\ndog\n  \n")
    plain, packed = (Entries(path=str(tmp_path / name)) for name in ("q.txt", "q.txt.gz"))
    for stage in (plain, packed):
        assert answers(stage, ["a dog,a  cat", "", "catdog"])["entries"] == [[0, 2], [], []]
    assert plain.identity() == packed.identity()
    (tmp_path / "q.txt").write_text("cat\n")
    assert plain.identity() != packed.identity()


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "object.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("[")
    for name, message in (
        ("none.txt", "cannot be read"),
        ("blank.txt", "holds no entry"),
        ("object.json", "must hold a JSON list of strings"),
        ("broken.json", "is not JSON"),
    ):
        with pytest.raises(ConfigError, match=message):
            Entries(path=str(tmp_path / name)).check()
