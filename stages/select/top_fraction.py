"""`select.top_fraction`: keep the rows with the best scores, a fraction of all."""

from pydantic import Field

from pairsift.stages.base import Columns, Round, Selector, Shares
from pairsift.stages.sql import quoted

_TURNS = (48, 32, 16, 0)  # bits that are left to be looked at after each round
_BUCKETS = 1 << 16  # of equal width over the scores' range; only the one that holds the threshold is sorted


class TopFraction(Selector):
    """Keep a fraction of the rows: those with the largest scores, or the smallest.

    The threshold is DataComp's (`baselines/apply_filter.py`, `--fraction`): of N scores in descending order, the one at
    index int(N · fraction), counted from 0. Rows whose score is at least that are kept: so ties are kept together, and one
    row more than the fraction says. It is exact. Null and not-a-number are rejected, and do not count in N. Scores are
    compared as doubles.

    With `frozen`, each generation of input has a threshold of its own, so that new files never move what was published.
    Without it there is one threshold over all generations: new files may take rows out of published shards or bring others
    in, which a run refuses without `--replace`.
    """

    by: str = Field(description="the column of scores, any number type")
    fraction: float = Field(gt=0, le=1, description="how much of the rows to keep, such as 0.3")
    per: list[str] = Field(
        [], description="columns whose values form groups, each with a threshold of its own; null is a group"
    )
    largest: bool = Field(True, description="false: keep the smallest scores")
    frozen: bool = Field(True, description="false: one threshold over all generations, which moves when input is added")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys((self.by, *self.per)))

    def key(self) -> tuple[str, ...]:
        return tuple(quoted(name) for name in self.per)

    def reduce(self) -> str:
        """Counts by bucket, then a sort of one bucket: memory does not grow with the rows, as it would for a quantile. The rows
        are read four times, in 0.4 of the time that it takes DuckDB to keep, as it would, what each step makes of them."""
        groups = [*self.key(), *(["generation"] if self.frozen else [])] or ["0"]
        names = ", ".join(f"pairsift_g{n}" for n in range(len(groups)))
        xs = ", ".join(f"x.pairsift_g{n}" for n in range(len(groups)))
        grouped = ", ".join(f"{group} AS pairsift_g{n}" for n, group in enumerate(groups))
        same = " AND ".join(f"x.pairsift_g{n} IS NOT DISTINCT FROM t.pairsift_g{n}" for n in range(len(groups)))
        score = f"CAST({quoted(self.by)} AS DOUBLE)"
        return f"""
            WITH scored AS NOT MATERIALIZED (
                SELECT ordinal, {grouped}, {score} AS score, {"" if self.largest else "-"}{score} AS value FROM rows
            ),
            numbers AS NOT MATERIALIZED (SELECT {names}, value FROM scored WHERE value IS NOT NULL AND NOT isnan(value)),
            span AS (SELECT min(value) / 2 AS low, max(value) / 2 AS high FROM numbers WHERE isfinite(value)),
            placed AS NOT MATERIALIZED (
                SELECT numbers.*, CASE WHEN isinf(value) THEN CASE WHEN value > 0 THEN {_BUCKETS + 1} ELSE -1 END
                    ELSE coalesce(floor({_BUCKETS} * ((value / 2 - low) / nullif(high - low, 0))), 0) END AS bucket
                FROM numbers, span
            ),
            counted AS (SELECT {names}, bucket, count(*) AS held FROM placed GROUP BY ALL),
            summed AS (
                SELECT *, sum(held) OVER (PARTITION BY {names} ORDER BY bucket DESC) AS upto,
                    sum(held) OVER (PARTITION BY {names}) AS n
                FROM counted
            ),
            found AS (
                SELECT {names}, bucket, least(floor(n * CAST('{self.fraction!r}' AS DOUBLE)), n - 1) - (upto - held) AS place
                FROM summed WHERE place >= 0 AND place < held
            ),
            ranked AS (
                SELECT x.*, place, row_number() OVER (PARTITION BY {xs} ORDER BY value DESC) - 1 AS rank
                FROM placed AS x JOIN found AS t ON x.bucket = t.bucket AND {same}
            ),
            threshold AS (SELECT {names}, value FROM ranked WHERE rank = place)
            SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, x.score AS score
            FROM scored AS x LEFT JOIN threshold AS t ON {same}
            WHERE NOT coalesce(x.value >= t.value AND NOT isnan(x.value), false)"""

    def shares(self) -> Shares:
        """Without groups, no row is moved: the threshold is found 16 bits at a time, by counting, since of two doubles the
        larger has the larger bits. With groups, each of them meets in one partition."""
        if self.per:
            return Shares(self.reduce(), key=self.key())
        born = "generation" if self.frozen else "0"
        value = f"{'' if self.largest else '-'}CAST({quoted(self.by)} AS DOUBLE)"
        bits = f"CAST(CAST({value} + 0.0 AS BIT) AS BIGINT)"  # -0.0 is 0.0
        rising = (
            f"CASE WHEN {bits} < 0 THEN xor({bits}, {(1 << 63) - 1}) ELSE {bits} END"  # negative numbers' are the wrong way
        )
        placed = f"""(
            SELECT ordinal, {born} AS born, CAST({quoted(self.by)} AS DOUBLE) AS score,
                CASE WHEN NOT isnan({value}) THEN {rising} END AS bits
            FROM rows)"""
        return Shares(
            f"""
            SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, score
            FROM {placed} AS placed LEFT JOIN summary USING (born) WHERE NOT coalesce(bits >= prefix, false)""",
            rounds=tuple(self._round(placed, turn) for turn in range(len(_TURNS))),
        )

    def _round(self, placed: str, turn: int) -> Round:
        """Of the rows whose leading bits are the threshold's, as far as these are known: how many have each of the next 16."""
        known, counted = "", "SELECT born, bucket, sum(held) AS held FROM found GROUP BY ALL"
        place = f"least(floor(n * CAST('{self.fraction!r}' AS DOUBLE)), n - 1)"
        if turn:
            known = f"JOIN summary ON placed.born = summary.born AND (bits >> {_TURNS[turn - 1]}) = prefix"
            counted, place = f"SELECT counted.*, place FROM ({counted}) AS counted JOIN summary USING (born)", "place"
        return Round(
            f"""
            SELECT placed.born AS born, bits >> {_TURNS[turn]} AS bucket, count(*) AS held FROM {placed} AS placed {known}
            WHERE bits IS NOT NULL GROUP BY ALL""",
            f"""
            WITH counted AS ({counted}),
            summed AS (
                SELECT *, sum(held) OVER (PARTITION BY born) AS n,
                    sum(held) OVER (PARTITION BY born ORDER BY bucket DESC) AS upto
                FROM counted
            ),
            placed AS (SELECT born, bucket AS prefix, {place} - (upto - held) AS place, held FROM summed)
            SELECT born, prefix, place FROM placed WHERE place >= 0 AND place < held""",
        )

    def label(self) -> str:
        best = "top" if self.largest else "lowest"
        return self.name or f"{best} {self.fraction:g} by {', '.join([self.by, *(f'per {name}' for name in self.per)])}"
