from pathlib import Path

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.morphy import read_dictionary

# What NLTK 3.8.1 says of these words with the same files. On WordNet 3.0 itself, 375,829 words (all lemmas, all irregular
# forms, lemmas with endings put on, captions' words) were compared once: none differed.
FIRST = {
    "dog": 2084071,
    "Dogs": 2084071,
    "dogs,": None,
    "dogses": 2084071,  # two endings off
    "glassess": 3438257,
    "men": 42,  # a lemma itself: goes before man
    "mans": None,  # an exception without a lemma: no ending is tried
    "axes": 7,  # the first of two exceptions that is a lemma
    "axises": 6,
    "running": 9,  # a noun goes before the verb
    "runs": 1926311,
    "ran": 1926311,
    "rans": None,
    "geese": None,  # its lemma is not there
    "bigger": 1382086,
    "biggest": None,
    "quickly": 85811,
    "quicklys": None,
    "barking": 2084072,
    "barks": 2084071,
    "ss": 10,
    "dogged": None,
    "doging": 2001858,
    "best": None,
    "狗": None,
    "\u0130": None,
    "": None,
}


def test_a_words_first_synset_is_nltks(tiny_wordnet: Path) -> None:
    dictionary = read_dictionary("x", str(tiny_wordnet))
    assert {word: dictionary.first_synset(word) for word in FIRST} == FIRST


def test_long_words_end(tiny_wordnet: Path) -> None:
    dictionary = read_dictionary("x", str(tiny_wordnet))
    assert [dictionary.first_synset(ending * 3000) for ending in ("ies", "ing", "er", "men", "es")] == [None] * 5
    assert [dictionary.first_synset(word) for word in ("dog" + "s" * 3000, "ses" * 3000)] == [2084071, 10]


def test_what_is_no_dictionary(tiny_wordnet: Path) -> None:
    (tiny_wordnet / "index.verb").write_text("run v many\n")
    with pytest.raises(ConfigError, match=r"x: .*index.verb is no index of WordNet's"):
        read_dictionary("x", str(tiny_wordnet))
    (tiny_wordnet / "index.noun").unlink()
    with pytest.raises(ConfigError, match=r"x: .*index.noun cannot be read"):
        read_dictionary("x", str(tiny_wordnet))
