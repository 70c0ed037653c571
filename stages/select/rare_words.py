"""`select.rare_words`: drop captions with a word, or a pair of words, that hardly anyone uses."""

from pydantic import Field

from pairsift.stages.base import Columns, Selector
from pairsift.stages.sql import quoted

_WORD = r"[^\s\p{Z}]+"  # whatever stands between white space


class RareWords(Selector):
    """Keep the captions whose single words and pairs of neighbouring words are all among the `vocabulary` most frequent ones.

    ALIGN's rule against what no other caption will ever repeat, such as `image_tid 25&id mggqpuweqdpd`
    (https://arxiv.org/abs/2102.05918, section 3, with the 100 million most frequent ones of the raw dataset: so it stands
    first). Words are what stands between white space, in lower case; single words and pairs are counted together, as often as
    they occur. Ties with the last one of the vocabulary are in it, too. A caption without words stays.

    With `frozen`, each generation of input has a vocabulary of its own, so that new input never takes anything out of what was
    published. Without it there is one over all.
    """

    by: str = Field("caption", description="column of text")
    vocabulary: int = Field(100_000_000, gt=0, description="how many of the most frequent words and pairs are known")
    frozen: bool = Field(True, description="false: one vocabulary over all generations, which grows with the input")

    def reads(self) -> Columns:
        return (self.by,)

    def key(self) -> tuple[str, ...]:
        return ()

    def reduce(self) -> str:
        """The count that the last word of the vocabulary has is found among counts of counts: nothing large is sorted."""
        generation = "generation" if self.frozen else "0"
        return f"""
            WITH split AS (
                SELECT ordinal, {generation} AS born, regexp_extract_all(lower({quoted(self.by)}), '{_WORD}') AS words FROM rows
            ),
            tokens AS (
                SELECT ordinal, born, unnest(list_concat(words,
                    [words[i] || ' ' || words[i + 1] FOR i IN range(1, CAST(len(words) AS BIGINT))])) AS token
                FROM split
            ),
            counted AS (SELECT born, token, count(*) AS held FROM tokens GROUP BY born, token),
            sizes AS (SELECT born, held, count(*) AS many FROM counted GROUP BY born, held),
            summed AS (SELECT born, held, sum(many) OVER (PARTITION BY born ORDER BY held DESC) AS known FROM sizes),
            least_known AS (SELECT born, max(held) AS held FROM summed WHERE known >= {self.vocabulary} GROUP BY born),
            rare AS (
                SELECT born, token, counted.held AS held FROM counted JOIN least_known USING (born)
                WHERE counted.held < least_known.held
            )
            SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, CAST(min(held) AS DOUBLE) AS score
            FROM tokens JOIN rare USING (born, token) GROUP BY ordinal"""

    def label(self) -> str:
        return self.name or f"words outside the {self.vocabulary} most frequent of {self.by}"
