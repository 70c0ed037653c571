"""Pack: each shard is an independent task that copies byte ranges.

    shards/00000.tar, 00000.parquet, 00000_stats.json, sizes.json    the layout of img2dataset, open_clip and webdataset
    embeddings/…    on request: see embeddings.py

Row i of a shard's Parquet is sample i of its tar. The same members give the same bytes, so a shard whose digest stands
in its `_stats.json` is not written again. The stats file comes last: a shard without it is not there.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger import tar
from pairsift.pipeline.ledger.intake import read_generations
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.parquet import parquet_options
from pairsift.pipeline.ledger.ranges import References
from pairsift.pipeline.pack import embeddings, spread
from pairsift.pipeline.pack.places import shard_keys
from pairsift.pipeline.pack.rows import KEPT, REASONS, gather, packed_columns
from pairsift.pipeline.pack.shards import ShardTask, shards_to_write
from pairsift.pipeline.pack.source_keys import keys_of_source
from pairsift.pipeline.pack.wide_samples import samples_of
from pairsift.pipeline.plan import Plan
from pairsift.stages import schema
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder

_ROWS_AT_ONCE = 1024  # whose JSON is held while a tar is written


@contextmanager
def prepared(plan: Plan, tasks: list[ShardTask], check: Callable[[], None]) -> Iterator[list[ShardTask]]:
    """The shards that are to be written; what their tasks need is there while the block lasts. `check` is called now and
    then, and may raise."""
    todo = shards_to_write(plan, tasks)
    work = Folder(plan.config.work)
    try:
        if plan.config.shards.shuffle_seed is not None and todo:
            spread.spread(plan, todo, check)
        yield todo
    finally:
        spread.clear(work)


@dataclass(frozen=True)
class Packer:
    """Writes one shard per call, in any process."""

    plan: Plan

    def __call__(self, task: ShardTask) -> int:
        """Write the shard and return how many rows it holds."""
        output, ledger = Folder(self.plan.config.output), Ledger(self.plan.config.work)
        table = self._rows(task, output, ledger)
        output.remove(f"shards/{task.name}_stats.json")
        vectors, packed = self.plan.embeddings, packed_columns(self.plan)
        samples = table.filter(pc.equal(table["status"], KEPT))
        _write_tar(output, f"shards/{task.name}.tar", ledger, samples.drop_columns([*vectors]))
        public = table.select(packed)
        sink = BytesIO()
        pq.write_table(public, sink, row_group_size=max(1, len(public)), **parquet_options(public.schema))
        output.write(f"shards/{task.name}.parquet", sink.getvalue())
        if vectors:
            embeddings.write(output, vectors, task.name, samples, samples.select(packed))
        output.write(f"shards/{task.name}_stats.json", json.dumps(_stats(task, public), indent=4).encode())
        return task.rows

    def _rows(self, task: ShardTask, output: Folder, ledger: Ledger) -> pa.Table:
        """The shard's rows in its order, with all columns that it needs."""
        shards = self.plan.config.shards
        if shards.shuffle_seed is not None:
            table = _shuffled(spread.take(ledger.work, task.name), ledger, shards.shuffle_seed)
        else:
            table = gather(self.plan, ledger, _members(output, task), self.plan.embeddings)
        if shards.lists_all:
            return _with_keys(table, pa.array(keys_of_img2dataset(int(task.name), len(table), shards.rows), pa.string()))
        if shards.keys == "source":
            return _with_keys(table, keys_of_source(table["key"].to_pylist(), table["source_key"].to_pylist()))
        return table


def _with_keys(table: pa.Table, keys: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("key"), schema.KEY, keys)


def keys_of_img2dataset(shard: int, rows: int, shard_rows: int) -> list[str]:
    """The keys of a shard's rows: its number, then the place in it, in as many digits as `shard_rows` rows need."""
    digits = math.ceil(math.log10(shard_rows))
    return [f"{shard * 10**digits + place:0{digits + 5}d}" for place in range(rows)]


def _members(output: Folder, task: ShardTask) -> pa.Table:
    bounds = [("ordinal", ">=", task.first), ("ordinal", "<=", task.last), ("shard", "==", task.name)]
    filesystem = None if output.local else output.filesystem
    return pq.read_table(
        output.path("fates.parquet"), columns=["ordinal", *REASONS], filters=bounds, filesystem=filesystem, use_threads=False
    )


def _shuffled(table: pa.Table, ledger: Ledger, seed: int) -> pa.Table:
    """Rows in the order of places: see `places.py`."""
    ordinals = table["ordinal"].to_numpy()
    ends = np.array([generation.end_ordinal for generation in read_generations(ledger)])
    generations = np.searchsorted(ends, ordinals, side="right")
    keys = shard_keys(seed, table["uid"].to_pylist())
    return table.take(pa.array(np.lexsort((ordinals, keys, generations))))


def _write_tar(output: Folder, name: str, ledger: Ledger, table: pa.Table) -> None:
    with output.create(name) as file:
        position = 0
        for start in range(0, len(table), _ROWS_AT_ONCE):
            rows = table.slice(start, _ROWS_AT_ONCE)
            position += samples_of(rows).write(References.of(rows, ledger.work), file)
        file.write(tar.end(position))


def _stats(task: ShardTask, rows: pa.Table) -> dict[str, Any]:
    """img2dataset's fields, and the other statuses where the shard lists such rows. Its three times are 0: a shard holds
    nothing that two runs would not share."""
    statuses, messages = rows["status"].to_pylist(), rows["error_message"].to_pylist()
    counts = Counter(statuses)
    reasons = Counter(message or status for message, status in zip(messages, statuses, strict=True))
    return {
        "count": task.rows,
        "successes": counts.pop(KEPT, 0),
        "failed_to_download": counts.pop(Status.FAILED_TO_DOWNLOAD.value, 0),
        "failed_to_resize": counts.pop(Status.FAILED_TO_RESIZE.value, 0),
        **dict(sorted(counts.items())),
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": dict(sorted(reasons.items())),
        "digest": task.digest,
    }
