"""`filter.where`: a SQL expression decides each row."""

from pydantic import Field

from pairsift.stages import sql
from pairsift.stages.base import Columns, Filter


class Where(Filter):
    """Keep the rows for which a SQL expression is true.

    The expression is DuckDB's, over one row's columns: `clip_similarity >= 0.28`, `length(caption) BETWEEN 5 AND 200`,
    `least(original_width, original_height) >= 200`. Null counts as false: a row that has no score is rejected. Subqueries,
    aggregates, random(), now() and whatever else is not decided by the row alone are refused with a ConfigError.
    """

    keep: str = Field(description="the rows to keep: a SQL expression over the columns, such as clip_similarity >= 0.28")

    def check(self) -> None:
        self.reads()

    def reads(self) -> Columns:
        return sql.columns_of(self.keep)

    def predicate(self) -> str:
        return self.keep

    def score(self) -> str | None:
        """The side of a comparison that is not constant: of `least(a, b) >= 200` it is `least(a, b)`; else None.

        Its type is not known here: it may be text, or a date.
        """
        return sql.comparison_side(self.keep)
