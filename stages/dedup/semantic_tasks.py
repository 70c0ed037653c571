"""`dedup.semantic` dealt out: k-means is fitted in one task, to the sample that one process would take; then every row goes to
the partition of its cluster, and each partition is looked at by itself.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import Scratch
from pairsift.stages.dedup.kmeans import SAMPLE, Centroids, assign, chance, fit
from pairsift.stages.dedup.vectors import Store
from pairsift.stages.exchange import Desk, Tasks, Written

_STEPS = 1 << 16  # into so many the numbers are dealt by which the sample is drawn
_LABEL, _NEARNESS = "pairsift label", "pairsift nearness"


class Rule(Protocol):
    """What is asked of `dedup.semantic`."""

    @property
    def by(self) -> str: ...

    @property
    def seed(self) -> int: ...

    def clusters_of(self, rows: int) -> int: ...

    def gone(self, store: Store, labels: NDArray[np.int32], nearness: NDArray[np.float32], scratch: Scratch) -> pa.Table: ...


def deal(rule: Rule, tasks: Tasks) -> Iterable[Written | None]:
    """The files of verdicts. Rounds: count, gather a sample, fit, scatter, find."""
    desk = tasks.desk
    counts: dict[int, NDArray[np.int64]] = {}
    for found in tasks.map(_Count(rule, desk), tasks.parts):
        for generation, held in found.items():
            counts[generation] = counts.get(generation, np.zeros(_STEPS, np.int64)) + held
    if not counts:
        return
    first = min(counts)
    clusters = rule.clusters_of(int(counts[first].sum()))
    last = int(np.searchsorted(np.cumsum(counts[first]), clusters * SAMPLE))
    sample = _written(tasks.map(_Gather(rule, desk, first, last), tasks.parts))
    (centroids,) = tasks.map(_Fit(rule, desk, sample), [clusters])
    scattered = _written(tasks.map(_Scatter(rule, desk, centroids, tasks.partitions), tasks.parts))
    yield from tasks.map(_Find(rule, desk, scattered), range(tasks.partitions))


def _written(files: Iterable[Written | None]) -> tuple[Written, ...]:
    return tuple(file for file in files if file)


@dataclass(frozen=True)
class _Count:
    """Of a part's rows with a vector: by generation, how many have which leading bits of their chance."""

    rule: Rule
    desk: Desk

    def __call__(self, part: Any) -> dict[int, NDArray[np.int64]]:
        found: dict[int, NDArray[np.int64]] = {}
        for table in self.desk.load(part):
            store = Store.of(table, self.rule.by)
            steps = _steps(store.ordinals, self.rule.seed)
            for generation in np.unique(store.generations).tolist():
                here = steps[store.generations == generation]
                found[generation] = found.get(generation, 0) + np.bincount(here, minlength=_STEPS)
        return found


@dataclass(frozen=True)
class _Gather:
    """Has the rows of a part written down that may be in the sample: all of those in it, and some more."""

    rule: Rule
    desk: Desk
    generation: int
    last: int  # the last step of chances that is needed

    def __call__(self, part: Any) -> Written | None:
        return self.desk.place.write(self._pieces(part), 0, 1)

    def _pieces(self, part: Any) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
        for table in self.desk.load(part):
            wanted = _steps(table["ordinal"].to_numpy(), self.rule.seed) <= self.last
            found = table.filter(pa.array(wanted & (table["generation"].to_numpy() == self.generation)))
            yield found, np.zeros(len(found), np.int64)


@dataclass(frozen=True)
class _Fit:
    """The centroids."""

    rule: Rule
    desk: Desk
    sample: tuple[Written, ...]

    def __call__(self, clusters: int) -> Centroids:
        with self.desk.scratch() as scratch:
            store = Store.read(_reader(self.desk.place.read(self.sample, 0)), self.rule.by, scratch.folder, scratch.check)
            return fit(store, np.arange(len(store)), clusters, self.rule.seed, scratch.check)


@dataclass(frozen=True)
class _Scatter:
    """Has the rows of a part written down by cluster."""

    rule: Rule
    desk: Desk
    centroids: Centroids
    partitions: int

    def __call__(self, part: Any) -> Written | None:
        return self.desk.place.write(self._pieces(part), 0, self.partitions)

    def _pieces(self, part: Any) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
        for table in self.desk.load(part):
            store = Store.of(table, self.rule.by)
            labels, nearness = assign(store, self.centroids, lambda: None)
            places = np.searchsorted(table["ordinal"].to_numpy(), store.ordinals)
            known = table.take(pa.array(places)) if len(store) < len(table) else table
            yield (
                known.append_column(_LABEL, pa.array(labels)).append_column(_NEARNESS, pa.array(nearness)),
                (labels % self.partitions),
            )


@dataclass(frozen=True)
class _Find:
    """Has the rows of a partition's clusters that go written down."""

    rule: Rule
    desk: Desk
    files: tuple[Written, ...]

    def __call__(self, partition: int) -> Written | None:
        with self.desk.scratch() as scratch:
            columns: list[list[NDArray[Any]]] = []
            tables = self.desk.place.read(self.files, partition)
            rows = _reader(_noting(tables, columns.append))
            if rows is None:
                return None
            store = Store.read(rows, self.rule.by, scratch.folder, scratch.check)
            ordinals, labels, nearness = (np.concatenate(parts) for parts in zip(*columns, strict=True))
            order = np.argsort(ordinals)
            return self.desk.write(self.rule.gone(store, labels[order], nearness[order], scratch))


def _noting(tables: Iterator[pa.Table], note: Callable[[list[NDArray[Any]]], None]) -> Iterator[pa.Table]:
    for table in tables:
        note([table[name].to_numpy() for name in ("ordinal", _LABEL, _NEARNESS)])
        yield table


def _steps(ordinals: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    return (chance(ordinals, seed) >> np.uint64(64 - _STEPS.bit_length() + 1)).astype(np.int64)


def _reader(tables: Iterator[pa.Table]) -> Any:
    """None for no rows."""
    first = next(tables, None)
    if first is None:
        return None
    batches = (batch for table in _chained(first, tables) for batch in table.to_batches())
    return pa.RecordBatchReader.from_batches(first.schema, batches)


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest
