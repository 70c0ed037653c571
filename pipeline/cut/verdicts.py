"""What has become of each row so far: arrays by ordinal, 20 bytes a row."""

import os
import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pairsift.pipeline.ledger.layers import Numbers
from pairsift.stages.storage import telling_where

ALIVE = 0  # a mark; of the other marks, the sign bit aside, each tells a step
UNREAD = -1  # the step of a row that the reader could not read
SET_ASIDE = 1 << 13  # the "step" of a repeated row that does not count: see ledger/retry.py
IN_MEMORY_ROWS = 1 << 17  # with more rows, the arrays lie in files: the system keeps in memory what it has room for
ROWS_WITHOUT_FILES = 1 << 27  # that many may be held in memory where no file can be written
_PENDING = 1 << 14


def stopped(step: int) -> int:
    """The mark of a row that ended at a step."""
    return step + 2


def waiting(step: int) -> int:
    """The mark of a row that has yet to be computed there."""
    return _PENDING + step


class Verdicts:
    """One mark per row, and for rows that rules took out what they looked at, and whose duplicate they are."""

    def __init__(self, rows: int, folder: str) -> None:
        """Every row is alive. `folder`: where files go, if there have to be any."""
        self.rows = rows
        self.marks = _zeros(rows, np.int16, folder)
        self._scores = _zeros(rows, np.float64, folder)
        self._scored = _zeros(rows, np.bool_, folder)
        self._keepers = _zeros(rows, np.int64, folder)  # plus one; 0 is none

    def alive(self, first: int, end: int) -> Numbers:
        """bool, for ordinals [first, end)."""
        mask: Numbers = self.marks[first:end] == ALIVE
        return mask

    def set(
        self, ordinals: Numbers, marks: Numbers | int, scores: pa.Array | None = None, keepers: pa.Array | None = None
    ) -> None:
        """Give rows their marks; where a score or a keeper is not null, it is noted."""
        self.marks[ordinals] = marks
        if scores is not None and scores.null_count < len(scores):
            self._scored[ordinals] = scores.is_valid().to_numpy(zero_copy_only=False)
            self._scores[ordinals] = scores.fill_null(0).to_numpy(zero_copy_only=False)
        if keepers is not None and keepers.null_count < len(keepers):
            self._keepers[ordinals] = keepers.fill_null(-1).to_numpy(zero_copy_only=False) + 1

    def copy(self, of: Numbers, to: Numbers) -> None:
        """Give rows the verdicts of others; arrays of ordinals."""
        for values in (self.marks, self._scores, self._scored, self._keepers):
            values[to] = values[of]

    def stops(self, first: int, end: int) -> pa.Array:
        """int16: the step where each row ended, UNREAD, or null while it is alive. Call it when none is waiting."""
        marks = self.marks[first:end]
        return pa.array(marks - np.int16(2), mask=marks == ALIVE)

    def scores(self, first: int, end: int) -> pa.Array:
        return pa.array(self._scores[first:end], mask=~self._scored[first:end])

    def keepers(self, first: int, end: int) -> pa.Array:
        keepers = self._keepers[first:end]
        return pa.array(keepers - 1, mask=keepers == 0)

    def counts(self) -> dict[int, int]:
        """Rows by mark."""
        found: dict[int, int] = {}
        for first, end in _stretches(self.rows):
            for mark, rows in enumerate(np.bincount(self.marks[first:end])):
                if rows:
                    found[mark] = found.get(mark, 0) + int(rows)
        return dict(sorted(found.items()))

    def pending(self) -> dict[int, int]:
        """Rows that wait, by step."""
        return {mark - _PENDING: rows for mark, rows in self.counts().items() if mark >= _PENDING}

    def pending_ordinals(self) -> Iterator[Numbers]:
        """Ordinals of the rows that wait, in order, in arrays of moderate size."""
        for first, end in _stretches(self.rows):
            yield np.flatnonzero(self.marks[first:end] >= _PENDING) + first

    def at(self, step: int) -> Numbers:
        """Ordinals of the rows that ended at a step, in order."""
        mark = stopped(step)
        parts = [np.flatnonzero(self.marks[first:end] == mark) + first for first, end in _stretches(self.rows)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _stretches(rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, 1 << 22):
        yield first, min(first + (1 << 22), rows)


def _zeros(rows: int, kind: type, folder: str) -> Numbers:
    if rows <= IN_MEMORY_ROWS:
        return np.zeros(rows, kind)
    try:
        return _in_a_file(rows, kind, folder)
    except OSError:  # a work folder that may only be read, a full disk
        if rows > ROWS_WITHOUT_FILES:
            raise
        return np.zeros(rows, kind)


def _in_a_file(rows: int, kind: type, folder: str) -> Numbers:
    os.makedirs(folder, exist_ok=True)
    with telling_where(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, rows * np.dtype(kind).itemsize)  # a full disk is told here, not by SIGBUS
        return np.memmap(file, kind, "r+", shape=(rows,))
