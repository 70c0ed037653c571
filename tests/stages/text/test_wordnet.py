from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.wordnet import Wordnet


def stage(folder: Path, synsets: str) -> Wordnet:
    (folder.parent / "synsets.txt").write_text(synsets)
    return Wordnet(wordnet=str(folder), synsets=str(folder.parent / "synsets.txt"))


def test_a_word_whose_first_synset_is_listed(answers: Any, tiny_wordnet: Path) -> None:
    ids = stage(tiny_wordnet, "n02084071\n\nn10114209\n42\n")
    texts = ["two DOGS run", "a dog, a man", "it barks", "barking", "six\u00a0men", "hotdogs", " ", "", None]
    # "bark" is a noun first, with the dog's offset; n10114209 is the dog's second synset, and never looked at.
    assert answers(ids, texts)["has_synset"] == [True, False, True, False, True, False, False, False, None]
    assert answers(stage(tiny_wordnet, "n10287213\n10114209\n"), texts[:2])["has_synset"] == [False, True]


def test_offsets_alone_are_compared(answers: Any, tiny_wordnet: Path) -> None:
    assert answers(stage(tiny_wordnet, "n01926311\nn00000009\n"), ["it runs"])["has_synset"] == [True]


@pytest.mark.parametrize(
    ("synsets", "says"),
    [
        ("dog.n.01\n", "'dog.n.01' is no synset id such as n02084071"),
        ("\n", "holds no synset"),
        ("n99999999\nn99999998\n", "2 of the 2 synsets .* another version of WordNet; ImageNet's are of 3.0"),
    ],
)
def test_lists_that_cannot_be_right(tiny_wordnet: Path, synsets: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        stage(tiny_wordnet, synsets).check()


def test_it_is_known_by_its_files(tiny_wordnet: Path) -> None:
    one = stage(tiny_wordnet, "n02084071\n")
    found = {one.identity()}
    (tiny_wordnet / "noun.exc").write_text("geese dog\n")
    found.add(one.identity())
    stage(tiny_wordnet, "42\n")
    found.add(one.identity())
    assert len(found) == 3
