"""`select.rare_words`: drop captions with a word, or a pair of words, that hardly anyone uses."""

from pydantic import Field

from pairsift.stages.base import Columns, Round, Selector, Shares
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
        return f"""
            WITH tokens AS ({self._tokens()}),
            counted AS (SELECT born, token, count(*) AS held FROM tokens GROUP BY born, token),
            sizes AS (SELECT born, held, count(*) AS many FROM counted GROUP BY born, held),
            least_known AS ({self._least_known("sizes")}),
            {_gone("tokens", "least_known")}"""

    def shares(self) -> Shares:
        """Each word and pair meets with its like, and is counted there; only how many have which count is brought together."""
        counted = 'WITH counted AS (SELECT born, token, count(*) AS held FROM "rows" GROUP BY born, token)'
        return Shares(
            f"{counted}, {_gone('rows', 'summary')}",
            rows=self._tokens(),
            key=("token",),
            rounds=(
                Round(
                    f"{counted} SELECT born, held, count(*) AS many FROM counted GROUP BY born, held",
                    self._least_known("(SELECT born, held, sum(many) AS many FROM found GROUP BY born, held)"),
                ),
            ),
        )

    def _tokens(self) -> str:
        generation = "generation" if self.frozen else "0"
        words = f"regexp_extract_all(lower({quoted(self.by)}), '{_WORD}') AS words"
        pairs = "[words[i] || ' ' || words[i + 1] FOR i IN range(1, CAST(len(words) AS BIGINT))]"
        return f"""
            SELECT ordinal, born, unnest(list_concat(words, {pairs})) AS token
            FROM (SELECT ordinal, {generation} AS born, {words} FROM rows)"""

    def _least_known(self, sizes: str) -> str:
        """The count of the last word of the vocabulary, by generation."""
        summed = f"SELECT born, held, sum(many) OVER (PARTITION BY born ORDER BY held DESC) AS known FROM {sizes}"
        return f"SELECT born, max(held) AS held FROM ({summed}) WHERE known >= {self.vocabulary} GROUP BY born"

    def label(self) -> str:
        return self.name or f"words outside the {self.vocabulary} most frequent of {self.by}"


def _gone(tokens: str, least_known: str) -> str:
    return f"""
            rare AS (
                SELECT born, token, counted.held AS held FROM counted JOIN {least_known} AS least_known USING (born)
                WHERE counted.held < least_known.held
            )
            SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, CAST(min(held) AS DOUBLE) AS score
            FROM {tokens} JOIN rare USING (born, token) GROUP BY ordinal"""
