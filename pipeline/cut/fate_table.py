"""Every input row's fate as a table: what fates.parquet holds, made block by block from verdicts and the ledger."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.cut.verdicts import UNREAD
from pairsift.pipeline.plan import Step
from pairsift.stages.base import Selector, Stage
from pairsift.stages.fates import Failure, Status

FATES = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("code", pa.string()),  # of fates.Failure
        pa.field("error_message", pa.string()),
        pa.field("rejected_by", pa.string()),  # the filter's or selector's name, for rejects and duplicates
        pa.field("score", pa.float64()),  # what the rule looked at
        pa.field("duplicate_of", pa.string()),  # the keeper's key
        pa.field("shard", pa.string()),  # "00000" for the kept, null for the held; with `layout: img2dataset`, for all
    ]
)
_CODES = pa.array([failure.value for failure in Failure])
_STATUS_OF_CODE = pa.array([failure.status.value for failure in Failure])


def keys(ordinals: pa.Array) -> pa.Array:
    """Ordinals in nine digits or more; null stays null."""
    return pc.utf8_lpad(ordinals.cast(pa.string()), 9, "0")


def statuses(stops: pa.Array, codes: pa.Array, steps: Sequence[Step]) -> pa.Array:
    """A status for each row: of its failure code, or of the rule that took it out; success where neither is."""
    kinds = [step.entry.status.value if isinstance(step.entry, Selector) else Status.REJECTED.value for step in steps]
    by_rule = pa.array([*kinds, None], pa.string()).take(_places(stops, len(steps)))
    by_code = _STATUS_OF_CODE.take(pc.index_in(codes, _CODES))
    return pc.coalesce(by_code, by_rule, Status.SUCCESS.value)


def labels(stops: pa.Array, steps: Sequence[Step]) -> pa.Array:
    """The rule that took a row out, or null."""
    names = [None if isinstance(step.entry, Stage) else step.label for step in steps]
    return pa.array([*names, None], pa.string()).take(_places(stops, len(steps)))


def _places(stops: pa.Array, none: int) -> pa.Array:
    """Steps as indices; `none` where there is none."""
    return pc.if_else(pc.equal(stops, pa.scalar(UNREAD, stops.type)), pa.scalar(none, stops.type), stops).fill_null(none)
