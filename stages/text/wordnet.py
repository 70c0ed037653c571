"""`text.wordnet`: whether a caption names something that is on a list of WordNet's synsets."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.storage import absolute
from pairsift.stages.text.lists import list_identity, read_list
from pairsift.stages.text.morphy import FILES, Dictionary, read_dictionary

_WORDS = 1 << 17  # whose answers a worker remembers


class Wordnet(Stage):
    """Whether a text has a word whose first synset in WordNet is on a list, as DataComp's text_based asks it of ImageNet-21k's.

    - `has_synset`: bool; null where the text is null.

    Words are what stands between white space (Python's split), in lower case: "dogs" is one and "dogs," is none. A word's
    synset is the first of its first lemma, nouns before verbs, adjectives and adverbs, where endings are taken off as NLTK
    3.8.1 does (https://github.com/mlfoundations/datacomp, baselines/apply_filter.py, `does_contain_text_entity`). As there,
    synsets are compared by offset alone: a verb whose offset is that of a listed noun counts.

    `wordnet` is a folder with WordNet's index.* and *.exc; offsets belong to one version, and ImageNet's to 3.0. `synsets` is a
    file with one id a line, such as n02084071. Neither comes with pairsift.
    """

    batch_rows: ClassVar[int] = 8192

    wordnet: Annotated[str, OPERATIONAL] = Field(description="folder with WordNet's index.noun, noun.exc, ...; any fsspec URL")
    synsets: Annotated[str, OPERATIONAL] = Field(description="file of synset ids (n02084071) or offsets, one a line")
    column: str = Field("caption", description="column of text")

    @field_validator("wordnet", "synsets")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        dictionary, wanted = self._dictionary(), self._wanted()
        missing = len(wanted - set(dictionary.parts[0].first.values()))
        # In a list that is right, some are, too: one in seven of WordNet's noun synsets is the first of no noun.
        if missing > 0.9 * len(wanted):
            raise ConfigError(
                f"text.wordnet: {missing} of the {len(wanted)} synsets in {self.synsets} are not the first of any noun in "
                f"{self.wordnet}: they are of another version of WordNet; ImageNet's are of 3.0"
            )

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("has_synset", pa.bool_())])

    def identity(self) -> str:
        paths = [self.synsets, *(f"{self.wordnet}/{name}" for name in FILES)]
        return hashlib.blake2b(
            "".join(list_identity("text.wordnet", path) for path in paths).encode(), digest_size=16
        ).hexdigest()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        dictionary, wanted = self._dictionary(), self._wanted()

        @lru_cache(_WORDS)
        def is_named(word: str) -> bool:
            return dictionary.first_synset(word) in wanted

        def transform(batch: pa.Table) -> pa.Table:
            texts = batch[self.column].to_pylist()
            found = [None if text is None else any(map(is_named, text.split())) for text in texts]
            return pa.table([pa.array(found, pa.bool_())], schema=self.writes())

        yield transform

    def _dictionary(self) -> Dictionary:
        return read_dictionary("text.wordnet", self.wordnet)

    def _wanted(self) -> set[int]:
        """Raises ConfigError."""
        ids = [line.strip() for line in read_list("text.wordnet", self.synsets) if line.strip()]
        for entry in ids:
            if not re.fullmatch(r"[nvasr]?\d{1,8}", entry, re.ASCII):
                raise ConfigError(f"text.wordnet: {self.synsets}: {entry[:80]!r} is no synset id such as n02084071")
        if not ids:
            raise ConfigError(f"text.wordnet: {self.synsets} holds no synset")
        return {int(entry.lstrip("nvasr")) for entry in ids}
