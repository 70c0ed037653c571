"""How much of a tar each sample will take, before any is written: for `shards.max_bytes`."""

from collections.abc import Iterator

import pyarrow as pa

from pairsift.pipeline.ledger.layers import Ledger, Numbers
from pairsift.pipeline.pack.rows import KEPT, gather
from pairsift.pipeline.pack.wide_samples import samples_of
from pairsift.pipeline.plan import Plan

_ROWS_AT_ONCE = 1 << 14  # whose texts are measured together: some ten megabytes


def sample_blocks(plan: Plan, ledger: Ledger, ordinals: Numbers) -> Iterator[Numbers]:
    """Blocks of a tar for each of these rows, some thousands at a time; `ordinals` rise. Makes the JSON that a shard would
    hold of them; the images are not read."""
    for start in range(0, len(ordinals), _ROWS_AT_ONCE):
        part = ordinals[start : start + _ROWS_AT_ONCE]
        nulls = pa.nulls(len(part), pa.string())
        columns = {"ordinal": pa.array(part), "status": pa.repeat(KEPT, len(part))}
        rows = pa.table({**columns, "code": nulls, "error_message": nulls, "rejected_by": nulls})
        yield samples_of(gather(plan, ledger, rows)).blocks()
