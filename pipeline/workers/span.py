"""Which steps a worker does, and who works on what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pairsift.pipeline.control.lock import Fence
from pairsift.pipeline.cut.verdicts import UNREAD
from pairsift.pipeline.plan import Plan, Step


@dataclass(frozen=True)
class Span:
    """Steps [start, end) for one chain to do; those before `start` are replayed from the ledger to know who is alive."""

    plan: Plan
    start: int
    end: int
    horizon: int  # steps up to here may still want the image bytes, in this chain or in the ones that follow it
    limit: int | None = None  # rows with an ordinal from here on are not part of this run
    fence: Fence | None = None  # the run's right to write into the work folder


def with_workers(span: Span, workers: int) -> Span:
    """The span with `resources.workers` of its stages as the runner starts them: what a stage may do in all (ask one host,
    take of the bandwidth) each worker divides by that."""
    steps = list(span.plan.steps)
    for step in steps[span.start : span.end]:
        if step.layer is not None:
            resources = step.stage.resources.model_copy(update={"workers": workers})
            steps[step.index] = replace(step, entry=step.stage.model_copy(update={"resources": resources}))
    return replace(span, plan=replace(span.plan, steps=tuple(steps)))


def bundles(steps: Sequence[Step]) -> list[list[Step]]:
    """Neighbouring steps whose stages want equal resources, each list for one kind of worker."""
    groups: list[list[Step]] = []
    current = None
    for step in steps:
        wanted = None if step.layer is None else step.stage.resources
        if groups and (wanted is None or current is None or wanted == current):
            groups[-1].append(step)
        else:
            groups.append([step])
        current = wanted or current
    return groups


def mask_path(step: int) -> str:
    """Where the rows that a selector took out lie while a run goes on, sorted by ordinal; UNREAD: those that were dead before
    the first step."""
    return "masks/input.parquet" if step == UNREAD else f"masks/{step:03d}.parquet"
