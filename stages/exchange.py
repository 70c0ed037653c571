"""Rows on their way from some processes to others: files in which rows lie by the partition that they go to.

A file holds runs; a run has one batch for each partition, which may be empty. So a reader takes its own batches out of every
file and nothing else, and a process writes one file, however many partitions there are.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import Scratch
from pairsift.stages.storage import Folder, telling_where

Numbers = NDArray[Any]

STRETCH = 1 << 21  # ordinals whose verdicts are read at a time
_RUN_BYTES = 32 << 20  # of rows that wait in memory until they are put in order


@dataclass(frozen=True)
class Written:
    """A file, and the partitions [first, end) that have batches in it."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Exchange:
    """Files in `folder`, beginning with `prefix`, of rows for the partitions 0, 1, …. May be sent to other processes.

    Nothing is fsynced: the files are of use to this run only.
    """

    folder: Folder
    prefix: str

    def write(self, pieces: Iterable[tuple[pa.Table, Numbers]], first: int, end: int) -> Written | None:
        """Write a file of rows, in tables of one schema, each with its rows' partitions in [first, end). None for no rows.

        Memory: some 100 MB beside the pieces.
        """
        name = f"{self.prefix}-{uuid.uuid4().hex}"
        runs = _runs(pieces)
        run = next(runs, None)
        if run is None:
            return None
        with self._create(name) as file:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_file(file, run[0].schema, options=options) as writer:
                while run is not None:
                    for batch in _batches(*run, first, end):
                        writer.write_batch(batch)
                    run = next(runs, None)
        return Written(name, first, end)

    def read(self, files: Iterable[Written], partition: int) -> Iterator[pa.Table]:
        """The rows of a partition, a table for each run that has some. Of files in a given order they come in a given order."""
        for written in files:
            if not written.first <= partition < written.end:
                continue
            with self._open(written.name) as source, pa.ipc.open_file(source) as reader:
                for place in range(partition - written.first, reader.num_record_batches, written.end - written.first):
                    batch = reader.get_batch(place)
                    if batch.num_rows:
                        yield pa.Table.from_batches([batch])

    @contextmanager
    def nearby(self) -> Iterator[str]:
        """The name of a folder for what a task needs while it lasts, on this machine's disk; whoever uses it makes it."""
        beside = self.folder.path(self.prefix.rpartition("/")[0]) if self.folder.local else tempfile.gettempdir()
        path = f"{beside}/task-{uuid.uuid4().hex[:12]}"
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _create(self, name: str) -> Iterator[BinaryIO]:
        if not self.folder.local:
            with self.folder.create(name) as file:
                yield file
            return
        path = self.folder.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with telling_where(path), open(path, "xb") as file:
            yield file

    def _open(self, name: str) -> Any:
        path = self.folder.path(name)
        return pa.memory_map(path) if self.folder.local else self.folder.filesystem.open(path, "rb", cache_type="none")


@dataclass(frozen=True)
class Desk:
    """What a task of a `Finder` works with, in any process."""

    load: Callable[[Any], Iterator[pa.Table]]  # the rows of a part: ordinal, generation, and what the finder reads
    place: Exchange
    memory: int  # bytes

    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        with self.place.nearby() as folder:
            os.makedirs(folder)
            yield Scratch(folder, self.memory)

    def write(self, gone: pa.Table) -> Written | None:
        """Write verdicts down: ordinal, duplicate_of, score."""
        if not len(gone):
            return None
        stretches = gone["ordinal"].to_numpy() // STRETCH
        return self.place.write([(gone, stretches)], int(stretches.min()), int(stretches.max()) + 1)


@dataclass(frozen=True)
class Tasks:
    """Processes that share a finder's work. What they are given, and what they give back, is pickled."""

    desk: Desk
    parts: Sequence[Any]
    partitions: int  # into so many the work is to be dealt
    map: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]  # a function of each item, in any order


def _runs(pieces: Iterable[tuple[pa.Table, Numbers]]) -> Iterator[tuple[pa.Table, Numbers]]:
    tables: list[pa.Table] = []
    places: list[Numbers] = []
    for table, partitions in pieces:
        if not len(table):
            continue
        tables.append(table)
        places.append(partitions)
        if sum(table.nbytes for table in tables) >= _RUN_BYTES:
            yield pa.concat_tables(tables), np.concatenate(places)
            tables, places = [], []
    if tables:
        yield pa.concat_tables(tables), np.concatenate(places)


def _batches(table: pa.Table, partitions: Numbers, first: int, end: int) -> Iterator[pa.RecordBatch]:
    """The run's rows by partition, a batch for each in [first, end)."""
    order = np.argsort(partitions, kind="stable")
    bounds = np.searchsorted(partitions[order], np.arange(first, end + 1))
    (batch,) = table.combine_chunks().take(pa.array(order)).combine_chunks().to_batches()
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield batch.slice(start, stop - start)
