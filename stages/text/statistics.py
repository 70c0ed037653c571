"""`text.statistics`: how long a caption is, and whether it is made of words."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform

# What Python's str.split and str.isspace take for white space: RE2's \s knows ASCII only.
_SPACE = r"\x{09}-\x{0d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_WORD = rf"[^{_SPACE}]+"
_SPECIAL = rf"[^\pL\pM\pN{_SPACE}]"
_LINK = r"(?i)https?://|www\.[^\s]|[a-z0-9_.+-]+@[a-z0-9-]+\.[a-z]"
_MARKUP = r"(?i)</?[a-z][^<>]*>|&(?:[a-z]{2,8}|#[0-9]{1,6}|#x[0-9a-f]{1,6});"
_FILE_NAME = (
    r"(?i)^\s*(?:[^\s]+\.(?:jpe?g|jfif|png|gif|webp|avif|bmp|tiff?|svg|heic|psd)"
    r"|(?:img|dscn?|dscf|pict?|pxl|sam|gopr|mvi|wp|scan|image|photo|picture|screenshot|untitled)?[\s_#()-]*[0-9][0-9\s_#().:-]*)\s*$"
)


class TextStatistics(Stage):
    """Lengths, repetition and suspicious patterns of a caption, for `filter.where` to judge. Null where the text is null.

    - `characters`: int32, Unicode code points.
    - `words`: int32, what white space separates: Python's `len(text.split())`, as DataComp's basic_filter counts.
    - `special_share`: float32, 0 to 1, characters that are neither letters nor marks nor numbers (Unicode categories L, M, N)
      nor white space, of all; 0 for an empty text.
    - `repetition`: float32, 0 to 1, groups of `ngram` neighbouring words that occur more than once, each as often as it does,
      of all such groups, whatever the case; 0 where there are none. The word repetition of the ROOTS corpus
      (https://arxiv.org/abs/2303.03915).
    - `top_ngram`: float32, 0 to 1, how much of all such groups the most frequent one is; 0 where none occurs twice. Close to
      the top n-gram of Gopher's rules (https://arxiv.org/abs/2112.11446, table A1), which weighs by characters.
    - `has_link`: a URL or a mail address. `has_markup`: an HTML tag or entity.
    - `is_file_name`: nothing but a file's name, a camera's name for a picture, or a number: `IMG_0042.JPG`, `DSC00017`.
    """

    batch_rows: ClassVar[int] = 8192

    column: str = Field("caption", description="column of text")
    ngram: int = Field(2, gt=0, description="how many neighbouring words repetition and top_ngram look at")

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema(
            [
                *(pa.field(name, pa.int32()) for name in ("characters", "words")),
                *(pa.field(name, pa.float32()) for name in ("special_share", "repetition", "top_ngram")),
                *(pa.field(name, pa.bool_()) for name in ("has_link", "has_markup", "is_file_name")),
            ]
        )

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._measure

    def _measure(self, batch: pa.Table) -> pa.Table:
        texts = batch[self.column].cast(schema.CAPTION.type).combine_chunks()
        characters = pc.utf8_length(texts)
        special = pc.count_substring_regex(texts, _SPECIAL).cast(pa.float32())
        repeated = [None if text is None else _repetition(text, self.ngram) for text in texts.to_pylist()]
        columns: list[Any] = [
            characters,
            pc.count_substring_regex(texts, _WORD),
            pc.divide(special, pc.max_element_wise(characters, 1, skip_nulls=False).cast(pa.float32())),
            pa.array([None if pair is None else pair[0] for pair in repeated], pa.float32()),
            pa.array([None if pair is None else pair[1] for pair in repeated], pa.float32()),
            *(pc.match_substring_regex(texts, pattern) for pattern in (_LINK, _MARKUP, _FILE_NAME)),
        ]
        return pa.table(columns, schema=self.writes())


def _repetition(text: str, ngram: int) -> tuple[float, float]:
    """Shares of all n-grams: those that occur more than once, and the most frequent one."""
    words = text.lower().split()
    if len(set(words)) == len(words):
        return 0.0, 0.0
    counts = Counter(zip(*(words[start:] for start in range(ngram)), strict=False))
    total = len(words) - ngram + 1
    most = max(counts.values(), default=1)
    if most == 1:
        return 0.0, 0.0
    return sum(count for count in counts.values() if count > 1) / total, most / total
