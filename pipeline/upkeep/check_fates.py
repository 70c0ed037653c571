"""fates.parquet: has every row one fate, and what does it say of each shard?"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.check_shards import Expected, uid_sum
from pairsift.pipeline.upkeep.problems import AGAIN, Findings, reason
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder

Json = dict[str, Any]


def look_at_fates(
    output: Folder, run: Json | None, found: Findings, *, without_gaps: bool
) -> tuple[dict[str, Expected], int] | tuple[None, None]:
    """Check fates.parquet, and return what it says of each shard, and how many rows were kept; nothing where it cannot be read.
    A row that was tried again has a fate by its new ordinal only: that makes gaps."""
    path = output.path("fates.parquet")
    remedy, remove = f"remove {path} and {AGAIN}", [path]
    counts: Counter[str] = Counter()
    shards: dict[str, Expected] = {}
    last = -1
    try:
        for batch in _batches(output):
            steps = np.diff(batch["ordinal"].to_numpy(), prepend=last)
            if np.any(steps != 1 if without_gaps else steps < 1):
                found.add(path, f"lacks a row, or has one twice, behind ordinal {last:,}", remedy, remove)
                return None, None
            last = batch["ordinal"][-1].as_py()
            counts.update(batch["status"].to_pylist())
            _note_shards(batch, shards)
    except (pa.ArrowException, OSError, KeyError) as error:
        found.add(path, f"cannot be read: {reason(error)}", remedy, remove)
        return None, None
    found.count("fates", counts.total())
    if run is not None and (run.get("rows"), _positive(run.get("counts") or {})) != (counts.total(), dict(counts)):
        told = output.path("run.json")
        what = f"says other counts than fates.parquet, which has {counts.total():,} rows"
        found.add(told, what, f"{AGAIN}, and both are written", [])
    return shards, counts[Status.SUCCESS.value]


def _batches(output: Folder) -> Iterator[pa.RecordBatch]:
    for batch in tables.batches(output, "fates.parquet"):
        if batch.schema.names != FATES.names:
            raise OSError(f"its columns are {', '.join(batch.schema.names)}")
        yield batch


def _note_shards(batch: pa.RecordBatch, shards: dict[str, Expected]) -> None:
    named = batch.filter(batch["shard"].is_valid())
    for name in named["shard"].unique().to_pylist():
        rows = named.filter(pc.equal(named["shard"], name))
        expected = shards.setdefault(name, Expected())
        expected.rows += len(rows)
        expected.kept += pc.sum(pc.equal(rows["status"], Status.SUCCESS.value)).as_py() or 0
        expected.uids += uid_sum(rows["uid"])


def _positive(counts: Json) -> Json:
    return {status: rows for status, rows in counts.items() if rows}
