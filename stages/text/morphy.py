"""WordNet's dictionary: from a word, as it stands in a text, to its first synset.

Files are WordNet's own (wndb(5WN)): index.noun, noun.exc and those of the other parts of speech.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pairsift.stages.base import ConfigError
from pairsift.stages.text.lists import read_list

PARTS = ("noun", "verb", "adj", "adv")  # the order in which a word is looked for
FILES = tuple(name for part in PARTS for name in (f"index.{part}", f"{part}.exc"))
# How words are inflected (morphy(7WN)), in the order in which NLTK tries it.
_ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


class _Part(NamedTuple):
    """One part of speech."""

    first: Mapping[str, int]  # lemma → offset of its most frequent synset
    exceptions: Mapping[str, list[str]]  # what is inflected irregularly → lemmas
    endings: tuple[tuple[str, str], ...]


class Dictionary(NamedTuple):
    """WordNet's lemmas."""

    parts: tuple[_Part, ...]

    def first_synset(self, word: str) -> int | None:
        """The offset of the first of a word's synsets: nouns go before verbs, adjectives and adverbs, and frequent ones first.

        The same as `wordnet.synsets(word)[0].offset()` of NLTK 3.8.1, which DataComp used. Later ones of NLTK take off one
        ending only, where 3.8.1 goes on until it finds a lemma.
        """
        word = word.lower()
        return next((part.first[lemma] for part in self.parts for lemma in _lemmas(part, word)), None)


def read_dictionary(use: str, folder: str) -> Dictionary:
    """Raises ConfigError, in the name of the stage `use`, where a file is missing or is none of WordNet's."""
    parts = []
    for part in PARTS:
        name = f"{folder}/index.{part}"
        lines = [
            line for line in read_list(use, name) if line.strip() and not line.startswith(" ")
        ]  # licence lines are indented
        try:
            first = dict(map(_index_entry, lines))
        except (ValueError, IndexError) as error:
            raise ConfigError(f"{use}: {name} is no index of WordNet's: {error}") from None
        irregular = (line.split() for line in read_list(use, f"{folder}/{part}.exc") if line.strip())
        parts.append(_Part(first, {form: lemmas for form, *lemmas in irregular}, _ENDINGS[part]))
    return Dictionary(tuple(parts))


def _index_entry(line: str) -> tuple[str, int]:
    """Of `lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt synset_offset [synset_offset...]`, two."""
    fields = line.split()
    return fields[0], int(fields[6 + int(fields[3])])


def _lemmas(part: _Part, word: str) -> Iterator[str]:
    """Lemmas that the word may be a form of: itself, exceptions, or with one ending off; only if there is none, with more."""
    if word in part.exceptions:
        yield from _known(part, [word, *part.exceptions[word]])
        return
    forms = _without_ending(part, [word])
    found = list(_known(part, [word, *forms]))
    while not found and forms:
        forms = _without_ending(part, forms)
        found = list(_known(part, forms))
    yield from found


def _known(part: _Part, forms: Iterable[str]) -> Iterator[str]:
    return (form for form in forms if form in part.first)


def _without_ending(part: _Part, forms: Iterable[str]) -> list[str]:
    shorter = (form[: -len(old)] + new for form in forms for old, new in part.endings if form.endswith(old))
    return list(dict.fromkeys(shorter))
