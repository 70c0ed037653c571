"""Brings together the rows of shuffled shards, which come from all units: each unit is read once, not once for each shard.

    work/pack/00000.arrow    all columns of a shard's rows in ordinal order, for the task that writes it

Rows go to at most `_AT_A_TIME` files by ranges of shards, and from each of those on to its shards. It is scratch: what a
killed run left is written over, or removed by the next.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.ranges import Numbers
from pairsift.pipeline.pack.rows import REASONS, gather
from pairsift.pipeline.pack.shards import ShardTask
from pairsift.pipeline.plan import Plan
from pairsift.stages.storage import Folder

_AT_A_TIME = 128  # files written at a time
_ROWS = 1 << 16  # of fates, gathered at a time: some hundreds for each file, a hundred megabytes in all
_NUMBER = "shard number"  # a column while rows are on their way


def spread(plan: Plan, tasks: Sequence[ShardTask], check: Callable[[], None]) -> None:
    """Write the rows of these shards, a file for each. `check` is called now and then, and may raise."""
    ledger = Ledger(plan.config.work)
    numbers = np.array(sorted(int(task.name) for task in tasks), np.int64)
    tables = _tables(plan, ledger, numbers, check)
    if len(numbers) <= _AT_A_TIME:
        _split(ledger.work, tables, numbers, _path)
        return
    firsts = numbers[:: -(-len(numbers) // _AT_A_TIME)]
    _split(ledger.work, tables, firsts, _part_path)
    for first, end in zip(firsts, [*firsts[1:], np.inf], strict=True):
        if not ledger.work.exists(_part_path(first)):
            continue
        check()
        inside = numbers[(numbers >= first) & (numbers < end)]
        _split(ledger.work, iter([_read(ledger.work, _part_path(first))]), inside, _path)
        ledger.work.remove(_part_path(first))


def take(work: Folder, name: str) -> pa.Table:
    """The rows of a shard, in ordinal order."""
    return _read(work, _path(int(name))).drop_columns([_NUMBER])


def clear(work: Folder) -> None:
    """Remove what `spread` wrote."""
    for name in work.names("pack"):
        work.remove(f"pack/{name}")


def _path(number: int) -> str:
    return f"pack/{number:05d}.arrow"


def _part_path(first: int) -> str:
    return f"pack/{first:05d}-part.arrow"


def _read(work: Folder, name: str) -> pa.Table:
    return pa.ipc.open_stream(work.read(name)).read_all()


def _tables(plan: Plan, ledger: Ledger, numbers: Numbers, check: Callable[[], None]) -> Iterator[pa.Table]:
    """All rows of these shards in ordinal order, some thousands at a time."""
    output = Folder(plan.config.output)
    columns = ["ordinal", *REASONS, "shard"]
    with output.filesystem.open(output.path("fates.parquet"), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=columns, use_threads=False):
            check()
            rows = pa.table(batch).filter(pc.is_in(batch["shard"].cast(pa.int64()), pa.array(numbers)))
            if len(rows):
                yield gather(plan, ledger, rows, plan.embeddings).append_column(_NUMBER, rows["shard"].cast(pa.int64()))


def _split(work: Folder, tables: Iterator[pa.Table], firsts: Numbers, path: Callable[[int], str]) -> None:
    """Write each row to the file of the last of `firsts` that is not above its shard. Their order stays."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    with ExitStack() as stack:
        for table in tables:
            files = firsts[np.searchsorted(firsts, table[_NUMBER].to_numpy(), side="right") - 1]
            order = np.argsort(files, kind="stable")
            there, starts = np.unique(files[order], return_index=True)
            ordered = table.take(pa.array(order)).combine_chunks()
            for first, start, end in zip(there.tolist(), starts.tolist(), [*starts[1:].tolist(), len(table)], strict=True):
                if first not in writers:
                    file = stack.enter_context(work.create(path(first)))
                    options = pa.ipc.IpcWriteOptions(compression="zstd")
                    writers[first] = stack.enter_context(pa.ipc.new_stream(file, table.schema, options=options))
                writers[first].write_table(ordered.slice(start, end - start))
