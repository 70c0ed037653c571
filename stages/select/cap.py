"""`select.cap`: keep at most so many rows of each kind."""

from pydantic import Field

from pairsift.stages.base import Columns, Selector, Shares
from pairsift.stages.select.keys import known, same
from pairsift.stages.sql import quoted


class Cap(Selector):
    """Keep at most `rows` of the rows that agree in the columns `per`: per domain, per caption, per image.

    The first in the input are kept, or with `best` those with the largest values there (null and not-a-number last, then in
    the order of the input). Rows of an earlier generation come first, so that new input takes nothing out of what was kept
    before. A row with a null in any of the columns `per` belongs to no group, and stays.
    """

    per: list[str] = Field(min_length=1, description="columns whose equal values make a group, such as [domain]")
    rows: int = Field(gt=0, description="how many rows of a group to keep")
    best: str | None = Field(None, description="a column of numbers: keep the rows with the largest; default: the first")
    largest: bool = Field(True, description="false: with best, keep the smallest")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys((*self.per, *([self.best] if self.best else []))))

    def key(self) -> tuple[str, ...]:
        return tuple(quoted(name) for name in dict.fromkeys(self.per))

    def reduce(self) -> str:
        """Only groups that hold too many are put in order."""
        key = self.key()
        groups = ", ".join(key)
        value = f"CAST(rows.{quoted(self.best)} AS DOUBLE)" if self.best else "CAST(NULL AS DOUBLE)"
        number = f"CASE WHEN NOT isnan({value}) THEN {value} END"
        order = f"rows.generation, {number} {'DESC' if self.largest else 'ASC'} NULLS LAST, rows.ordinal"
        full = f"SELECT {groups} FROM rows WHERE {known(key)} GROUP BY {groups} HAVING count(*) > {self.rows}"
        partition = ", ".join(f"rows.{name}" for name in key)
        return (
            "SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, score FROM ("
            f"SELECT rows.ordinal AS ordinal, {value} AS score, row_number() OVER (PARTITION BY {partition} ORDER BY {order}) "
            f"AS place FROM rows JOIN ({full}) AS full_groups ON {same('rows', 'full_groups', key)}) WHERE place > {self.rows}"
        )

    def shares(self) -> Shares:
        return Shares(self.reduce(), rows=f'SELECT * FROM "rows" WHERE {known(self.key())}', key=self.key())

    def label(self) -> str:
        best = f" by {self.best}" if self.best else ""
        return self.name or f"at most {self.rows} per {', '.join(dict.fromkeys(self.per))}{best}"
