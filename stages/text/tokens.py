"""`text.tokens`: how many tokens a model's tokenizer makes of a caption."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.storage import absolute


class Tokens(Stage):
    """The number of tokens of a text, for models that read only so many: CLIP 77, SigLIP 64. Null where the text is null.

    - `tokens`: int32, all of them, however many; with `special`, those that mark start and end as well, as the model counts.

    The tokenizer is a checkpoint's tokenizer.json.
    """

    batch_rows: ClassVar[int] = 8192

    tokenizer: Annotated[str, OPERATIONAL] = Field(description="folder of a checkpoint with a tokenizer.json, or such a file")
    column: str = Field("caption", description="column of text")
    special: bool = Field(True, description="count the tokens that mark start and end")

    @field_validator("tokenizer")
    @classmethod
    def _for_every_worker(cls, value: str) -> str:
        return absolute(value)

    def check(self) -> None:
        if not self._file().is_file():
            raise ConfigError(f"text.tokens: tokenizer: there is no {self._file()}")

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("tokens", pa.int32())])

    def identity(self) -> str:
        return hashlib.blake2b(self._file().read_bytes(), digest_size=16).hexdigest()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._file()))
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def transform(batch: pa.Table) -> pa.Table:
            texts = batch[self.column].to_pylist()
            given = [text for text in texts if text is not None]
            counts = iter(tokenizer.encode_batch_fast(given, add_special_tokens=self.special))
            found = [None if text is None else len(next(counts)) for text in texts]
            return pa.table([pa.array(found, pa.int32())], schema=self.writes())

        yield transform

    def _file(self) -> Path:
        path = Path(self.tokenizer)
        return path / "tokenizer.json" if path.is_dir() else path
