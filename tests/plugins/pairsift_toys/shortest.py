"""A rule over the whole dataset, with a score."""

from pydantic import Field

from pairsift.stages.base import Columns, Selector


class Shortest(Selector):
    """Of the captions that begin with the same letter, keep the shortest."""

    at_most: int = Field(1, ge=1, description="how many to keep of each letter")

    def reads(self) -> Columns:
        return ("caption",)

    def key(self) -> tuple[str, ...]:
        return ("left(caption, 1)",)

    def reduce(self) -> str:
        ranked = "row_number() OVER (PARTITION BY left(caption, 1) ORDER BY length(caption), ordinal)"
        return (
            "SELECT ordinal, CAST(NULL AS BIGINT) AS duplicate_of, length(caption) AS score FROM "
            f"(SELECT *, {ranked} AS place FROM rows) WHERE place > {self.at_most}"
        )
