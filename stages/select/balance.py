"""`select.balance`: keep rare concepts whole and thin out frequent ones, as MetaCLIP does."""

from pydantic import Field

from pairsift.stages.base import Columns, Round, Selector, Shares
from pairsift.stages.select.keys import uniform
from pairsift.stages.sql import quoted


class Balance(Selector):
    """Draw rows so that each entry of a query list is behind about `per_entry` of them at most.

    The rule is MetaCLIP's (https://arxiv.org/abs/2309.16671, algorithm 1, its t): an entry that n rows match has the chance
    min(1, t / n); a row stays if it is drawn for one of its entries at least, each draw by itself. A row that matches nothing
    goes. `text.entries` writes the entries of a caption. The paper takes t = 20,000 for 400 million pairs, 170,000 for all of
    CommonCrawl.

    Where the authors' code calls a random generator, a row's draw is here an md5 of seed, uid and entry: so the same rows are
    drawn in every run. The score in fates is the largest chance of the row's entries; null where it has none.

    With `frozen`, n counts a row's own generation and those before it, so that new input never takes anything out of what was
    published. Without it n counts all.
    """

    per_entry: int = Field(gt=0, description="MetaCLIP's t: how many rows an entry may draw on average, such as 20000")
    seed: int = Field(0, ge=0, description="another seed draws other rows")
    entries: str = Field("entries", description="column with the list of entries that a row matches, each once")
    frozen: bool = Field(True, description="false: what comes in later counts, too, and may take rows out of published shards")

    def reads(self) -> Columns:
        return ("uid", self.entries)

    def key(self) -> tuple[str, ...]:
        return ()

    def reduce(self) -> str:
        return f"""
            WITH {self._matches()},
            counted AS (SELECT entry, born, count(*) AS held FROM matches GROUP BY entry, born),
            chances AS ({self._chances("counted")}),
            {self._drawn("chances")}"""

    def shares(self) -> Shares:
        """Entries are counted where the rows are; only their counts are brought together."""
        count = f"WITH {self._matches()} SELECT entry, born, count(*) AS held FROM matches GROUP BY entry, born"
        counted = "(SELECT entry, born, sum(held) AS held FROM found GROUP BY entry, born)"
        return Shares(f"WITH {self._matches()}, {self._drawn('summary')}", rounds=(Round(count, self._chances(counted)),))

    def _matches(self) -> str:
        generation = "generation" if self.frozen else "0"
        entry = f"unnest({quoted(self.entries)}) AS entry"
        return f"matches AS (SELECT ordinal, uid, {generation} AS born, {entry} FROM rows)"

    def _chances(self, counted: str) -> str:
        chance = f"least(1, CAST({self.per_entry} AS DOUBLE) / sum(held) OVER (PARTITION BY entry ORDER BY born))"
        return f"SELECT entry, born, {chance} AS chance FROM {counted}"

    def _drawn(self, chances: str) -> str:
        return f"""
            drawn AS (
                SELECT ordinal, max(chance) AS score, bool_or({uniform(self.seed, ["uid", "matches.entry"])} < chance) AS stays
                FROM matches JOIN {chances} AS chances ON matches.entry = chances.entry AND matches.born = chances.born
                GROUP BY ordinal
            )
            SELECT rows.ordinal AS ordinal, CAST(NULL AS BIGINT) AS duplicate_of, drawn.score AS score
            FROM rows LEFT JOIN drawn ON rows.ordinal = drawn.ordinal WHERE NOT coalesce(drawn.stays, false)"""

    def label(self) -> str:
        return self.name or f"balance to {self.per_entry} per entry of {self.entries}"
