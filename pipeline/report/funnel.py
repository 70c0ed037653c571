"""The funnel: rows in, what was lost at each step and why, rows kept. The numbers add up, or it is an error."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.plan import Plan
from pairsift.stages.base import Stage
from pairsift.stages.fates import Failure, Status


@dataclass
class Loss:
    """What one step took out. `reasons` counts failure codes; it is empty for rules."""

    step: str
    rule: bool
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class Funnel:
    """What a cut made of `rows` input rows: `kept` of them in `shards` (but for `held`, which wait for more), the others in
    `losses`."""

    rows: int
    losses: list[Loss]
    kept: int
    shards: int
    held: int = 0

    def statuses(self) -> dict[str, int]:
        """Rows by status; their sum is `rows`."""
        counts = {status.value: 0 for status in Status}
        counts[Status.SUCCESS.value] = self.kept
        for loss in self.losses:
            for reason, rows in loss.reasons.items():
                counts[reason if loss.rule else Failure(reason).status.value] += rows
        return counts


class FunnelCounter:
    """Counts fates as they stream by."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = self._kept = self._held = 0
        self._shards: set[str] = set()
        self._input = Loss("read", rule=False)
        self._steps = [Loss(step.label, rule=not isinstance(step.entry, Stage)) for step in plan.steps]

    def count(self, batches: Iterable[tuple[pa.RecordBatch, pa.Array]]) -> Iterable[pa.RecordBatch]:
        """Pass (fates, stop) batches on as fates; `stop` is the index of the step where each row ended, -1 for the reader."""
        for batch, stops in batches:
            self._rows += len(batch)
            self._held += self._waiting(batch)
            table = pa.table([stops, batch["status"], batch["code"]], names=["stop", "status", "code"])
            for row in table.group_by(["stop", "status", "code"]).aggregate([([], "count_all")]).to_pylist():
                self._add(row["stop"], row["status"], row["code"], row["count_all"])
            self._shards.update(name for name in batch["shard"].unique().to_pylist() if name)
            yield batch

    def _waiting(self, batch: pa.RecordBatch) -> int:
        """Rows that are kept, and in no shard though there are shards."""
        if not self._plan.packs:
            return 0
        return pc.sum(pc.and_(pc.equal(batch["status"], Status.SUCCESS.value), batch["shard"].is_null())).as_py() or 0

    def _add(self, stop: int | None, status: str, code: str | None, rows: int) -> None:
        if stop is None:
            self._kept += rows
            return
        loss = self._input if stop < 0 else self._steps[stop]
        loss.rows += rows
        loss.reasons[status if loss.rule else str(code)] += rows

    def funnel(self, rows: int) -> Funnel:
        """`rows` is what the input has. Raises ArithmeticError if a row were missing or counted twice."""
        losses = [self._input, *self._steps] if self._input.rows else self._steps
        total = self._kept + sum(loss.rows for loss in losses)
        if not rows == self._rows == total:
            raise ArithmeticError(f"{rows} input rows, {self._rows} fates, {total} counted: pairsift has lost count")
        return Funnel(rows, losses, self._kept, len(self._shards), self._held)
