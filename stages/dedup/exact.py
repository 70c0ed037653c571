"""`dedup.exact`: of rows that agree in some columns, the first is kept."""

from typing import ClassVar

from pydantic import Field

from pairsift.stages.base import Columns, Selector, Shares
from pairsift.stages.fates import Status
from pairsift.stages.sql import quoted


class Exact(Selector):
    """Keep the first of the rows that are equal in all the given columns.

    The keeper is the row with the lowest ordinal, the first in the input, so that new input never displaces what an earlier
    generation kept. A row with a null in any of the columns is nobody's duplicate. Equal means equal in SQL: text by its
    bytes, numbers by value.
    """

    status: ClassVar[Status] = Status.DUPLICATE

    by: list[str] = Field(min_length=1, description="columns that must all be equal, such as [url] or [url, caption]")

    def reads(self) -> Columns:
        return tuple(dict.fromkeys(self.by))

    def key(self) -> tuple[str, ...]:
        return tuple(quoted(name) for name in self.reads())

    def reduce(self) -> str:
        """Two passes that hold only the keys that occur more than once, not a window over all rows."""
        key = self.key()
        known = self._known()
        same = " AND ".join(f"rows.{name} = repeated.{name}" for name in key)
        return (
            "SELECT rows.ordinal AS ordinal, repeated.pairsift_keeper AS duplicate_of, CAST(NULL AS DOUBLE) AS score FROM rows "
            f"JOIN (SELECT {', '.join(key)}, min(ordinal) AS pairsift_keeper FROM rows WHERE {known} "
            f"GROUP BY {', '.join(key)} HAVING count(*) > 1) AS repeated ON {same} "
            "WHERE rows.ordinal <> repeated.pairsift_keeper"
        )

    def shares(self) -> Shares:
        return Shares(self.reduce(), rows=f'SELECT * FROM "rows" WHERE {self._known()}', key=self.key())

    def _known(self) -> str:
        return " AND ".join(f"{name} IS NOT NULL" for name in self.key())

    def label(self) -> str:
        return self.name or f"duplicate {', '.join(self.reads())}"
