"""`select.sample`: keep a random part of the rows, the same part every time."""

from pydantic import Field

from pairsift.stages.base import Columns, ConfigError, Round, Selector, Shares
from pairsift.stages.select.keys import DRAWN_BITS, drawn, uniform
from pairsift.stages.sql import quoted


class Sample(Selector):
    """Keep a fraction of the rows, or so many of them, drawn by a hash of `by`.

    A row's number in [0, 1) is an md5 of the seed and of its values in `by`: by default its uid, so that the same pair is
    drawn whatever else is in the input. Of `fraction: 0.1` and `fraction: 0.2` with one seed, the first is within the second.
    With `by: [domain]`, rows of one domain stay or go together: a split for validation that shares no site with training.

    New input takes nothing out of what was kept before. `fraction` looks at each row alone. `count` takes the rows with the
    smallest numbers; rows of an earlier generation come first, and later ones only fill up what is missing.
    """

    fraction: float | None = Field(None, gt=0, le=1, description="how much of the rows to keep, on average")
    count: int | None = Field(None, gt=0, description="how many rows to keep, exactly, if there are so many")
    seed: int = Field(0, ge=0, description="another seed draws other rows")
    by: list[str] = Field(
        ["uid"], min_length=1, description="columns that the hash is taken over; equal values share their fate"
    )

    def check(self) -> None:
        if (self.fraction is None) == (self.count is None):
            raise ConfigError("select.sample: give either fraction, such as 0.1, or count, such as 100000")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys(self.by))

    def key(self) -> tuple[str, ...]:
        return () if self.fraction is None else tuple(map(quoted, self.reads()))

    def reduce(self) -> str:
        number = uniform(self.seed, [quoted(name) for name in self.reads()])
        drawn = f"SELECT ordinal, generation, {number} AS number FROM rows"
        gone = f"SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, number AS score FROM ({drawn})"
        if self.fraction is not None:
            return f"{gone} WHERE number >= CAST('{self.fraction!r}' AS DOUBLE)"
        kept = f"SELECT ordinal FROM ({drawn}) ORDER BY generation, number, ordinal LIMIT {self.count}"
        return f"{gone} AS drawn ANTI JOIN ({kept}) AS kept ON drawn.ordinal = kept.ordinal"

    def shares(self) -> Shares:
        """No row is moved. The last row that stays is found some bits at a time, by counting: of its number, then of its
        ordinal."""
        if self.fraction is not None:
            return Shares(self.reduce())
        number = drawn(self.seed, [quoted(name) for name in self.reads()])
        numbered = f"(SELECT ordinal, generation, {number} AS number FROM rows) AS rows"
        same = "JOIN summary AS last ON rows.generation = last.generation AND"
        looks = [
            (f"rows.number >> {DRAWN_BITS - 16}", ""),
            (f"rows.number >> {DRAWN_BITS - 34}", f"{same} rows.number >> {DRAWN_BITS - 16} = last.number"),
            ("rows.number", f"{same} rows.number >> {DRAWN_BITS - 34} = last.number"),
            ("rows.ordinal >> 20", f"{same} rows.number = last.number"),
            ("rows.ordinal", f"{same} rows.number = last.number AND rows.ordinal >> 20 = last.ordinal"),
        ]
        count = "SELECT rows.generation AS generation, {} AS bucket, count(*) AS held FROM {} {} GROUP BY ALL"
        return Shares(
            f"""
            SELECT rows.ordinal AS ordinal, CAST(NULL AS BIGINT) AS duplicate_of,
                CAST(rows.number AS DOUBLE) / {1 << DRAWN_BITS} AS score
            FROM {numbered}, summary AS last
            WHERE (rows.generation, rows.number, rows.ordinal) > (last.generation, last.number, last.ordinal)""",
            rounds=tuple(
                Round(count.format(look, numbered, known), self._last(turn)) for turn, (look, known) in enumerate(looks)
            ),
        )

    def _last(self, turn: int) -> str:
        """What is known of the last row that stays, and how many of the rows of which as much is known stay before it. No row,
        where all stay."""
        place = f"{self.count} - 1" if turn == 0 else "(SELECT place FROM summary)"
        number, ordinal = ("bucket", "NULL") if turn < 3 else ("(SELECT number FROM summary)", "bucket")
        return f"""
            WITH counted AS (SELECT generation, bucket, sum(held) AS held FROM found GROUP BY ALL),
            summed AS (SELECT *, sum(held) OVER (ORDER BY generation, bucket) AS upto, {place} AS place FROM counted)
            SELECT generation, {number} AS number, CAST({ordinal} AS BIGINT) AS ordinal, place - (upto - held) AS place
            FROM summed WHERE upto > place AND upto - held <= place"""

    def label(self) -> str:
        how_many = f"{self.fraction:g}" if self.fraction is not None else f"{self.count}"
        return self.name or f"sample of {how_many} by {', '.join(self.reads())}"
