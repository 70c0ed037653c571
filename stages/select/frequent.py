"""`select.frequent`: drop what occurs too often to mean anything."""

from pydantic import Field

from pairsift.stages.base import Columns, ConfigError, Selector, Shares
from pairsift.stages.select.keys import known, same
from pairsift.stages.sql import quoted


class Frequent(Selector):
    """Drop all rows that agree in the columns `per`, where there are more than `most` of them.

    ALIGN drops alt-texts that more than 10 images share, and images with more than 1000 alt-texts
    (https://arxiv.org/abs/2102.05918, section 3); COYO-700M drops captions that occur more than 10 times. With `distinct`,
    not rows are counted but different values: `per: [caption], distinct: [url], most: 10`. A row with a null in any of the
    columns counts for nothing, and stays.

    With `frozen`, a row is judged by its own generation and those before it, so that new input never takes anything out of what
    was published. Without it by all.
    """

    per: list[str] = Field(min_length=1, description="columns whose equal values are counted, such as [caption]")
    most: int = Field(gt=0, description="how often a value may occur")
    distinct: list[str] = Field([], description="columns whose different values are counted; default: rows are")
    frozen: bool = Field(True, description="false: what comes in later counts, too, and may take rows out of published shards")

    def check(self) -> None:
        if both := set(self.per) & set(self.distinct):
            raise ConfigError(f"select.frequent: {min(both)!r} is in per and in distinct; its values differ in no group")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys((*self.per, *self.distinct)))

    def key(self) -> tuple[str, ...]:
        return tuple(quoted(name) for name in dict.fromkeys(self.per))

    def reduce(self) -> str:
        """Groups first, then a running sum over the generations of those that are too large in the end."""
        key = self.key()
        groups = ", ".join(key)
        all_known = known(map(quoted, self.reads()))
        generation = "generation" if self.frozen else "0"
        if self.distinct:  # a value counts from the generation on in which it is first seen
            values = ", ".join(map(quoted, self.reads()))
            counted = f"SELECT {values}, min({generation}) AS born FROM rows WHERE {all_known} GROUP BY {values}"
        else:
            counted = f"SELECT {groups}, {generation} AS born FROM rows WHERE {all_known}"
        return f"""
            WITH counted AS (SELECT {groups}, born, count(*) AS held FROM ({counted}) GROUP BY {groups}, born),
            crowds AS (SELECT {groups} FROM counted GROUP BY {groups} HAVING sum(held) > {self.most}),
            summed AS (
                SELECT {", ".join(f"counted.{name}" for name in key)}, born,
                    sum(held) OVER (PARTITION BY {", ".join(f"counted.{name}" for name in key)} ORDER BY born) AS upto
                FROM counted JOIN crowds ON {same("counted", "crowds", key)}
            ),
            found AS (
                SELECT {groups}, min(born) AS since, min(upto) AS upto FROM summed WHERE upto > {self.most} GROUP BY {groups}
            )
            SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, CAST(upto AS DOUBLE) AS score
            FROM rows JOIN found ON {same("rows", "found", key)} AND {"rows.generation" if self.frozen else "0"} >= since
            WHERE {known(f"rows.{quoted(name)}" for name in self.reads())}"""

    def shares(self) -> Shares:
        return Shares(self.reduce(), rows=f'SELECT * FROM "rows" WHERE {known(map(quoted, self.reads()))}', key=self.key())

    def label(self) -> str:
        of = f" {', '.join(self.distinct)}" if self.distinct else ""
        return self.name or f"more than {self.most}{of} per {', '.join(dict.fromkeys(self.per))}"
