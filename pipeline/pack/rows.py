"""Rows with all that a shard holds of them, gathered from the layers of the units that they are in."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.ledger.intake import Generation, read_generations
from pairsift.pipeline.ledger.layers import Layer, Ledger, Numbers
from pairsift.pipeline.plan import Plan
from pairsift.stages.fates import Status

KEPT = Status.SUCCESS.value
REASONS = ["status", "code", "error_message", "rejected_by"]  # of a row's fate
NOT_PACKED = frozenset({"ordinal", "image_path", "image_offset", "image_length", "image_format", "source_members"})
_UNKNOWN_TO_IMG2DATASET = frozenset({"original_bytes", "original_format"})
_COLUMNS_OF_IMG2DATASET = (
    *("caption", "url", "key", "status", "error_message"),
    *("width", "height", "original_width", "original_height", "exif", "sha256"),
)


def packed_columns(plan: Plan) -> list[str]:
    """The columns of a shard's Parquet: the input's own, img2dataset's, uid, then what stages added, in their order."""
    known = [f for layer in plan.layers for f in layer.schema if f.name in layer.columns]
    left_out = NOT_PACKED | _unknown_to_layout(plan)
    packed = [f.name for f in known if f.name not in left_out and not _is_vector(f.type)]
    standard = [c for c in _COLUMNS_OF_IMG2DATASET if c in packed or c in ("status", "error_message")]
    own = [c for c in plan.intake.columns if c in packed and c not in standard and c != "uid"]
    return [*own, *standard, "uid", *(c for c in packed if c not in own and c not in standard and c != "uid")]


def _unknown_to_layout(plan: Plan) -> frozenset[str]:
    return _UNKNOWN_TO_IMG2DATASET - {*plan.intake.columns} if plan.config.shards.lists_all else frozenset()


def json_columns(table: pa.Table) -> list[str]:
    """The columns of a sample's JSON, in its order: by layer, then `status` and `error_message`."""
    return [name for name in table.column_names if name not in NOT_PACKED]


def gather(plan: Plan, ledger: Ledger, rows: pa.Table, vectors: Sequence[str] = ()) -> pa.Table:
    """The columns that a shard needs of these rows: `ordinal`, by layer all but vectors, `status`, `error_message`; of
    vectors, those that are named.

    `rows` has `ordinal`, rising, and the `REASONS`. A row that was not kept has nulls where a layer lacks it. Raises
    OSError where a layer lacks one that was kept.
    """
    ordinals = rows["ordinal"].to_numpy()
    kept = pc.equal(rows["status"], KEPT).to_numpy()
    units = _units_of(ordinals, read_generations(ledger))
    table, without = rows.select(["ordinal"]), _unknown_to_layout(plan)
    for layer in plan.layers:
        wanted = [c for c in layer.columns if c in vectors or (c not in without and not _is_vector(layer.schema.field(c).type))]
        joined = _read(ledger, layer, units, wanted)
        there = joined["ordinal"].to_numpy()
        places = np.searchsorted(there, ordinals)
        lacking = ~np.isin(ordinals, there)
        if np.any(lacking & kept):
            raise OSError(f"{ledger.work.uri}: the layer {layer.name} lacks rows that the cut has kept")
        if len(there) != len(ordinals) or lacking.any():
            joined = joined.take(pa.array(places, mask=lacking))
        for column in wanted:
            table = table.append_column(layer.schema.field(column), joined[column].combine_chunks())
    table = table.append_column(pa.field("status", pa.string()), rows["status"].combine_chunks())
    message = pc.coalesce(rows["error_message"], rows["code"], rows["rejected_by"])
    return table.append_column("error_message", message.combine_chunks())


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _read(ledger: Ledger, layer: Layer, units: list[int], columns: list[str]) -> pa.Table:
    """What the layer has of these units, in ordinal order."""
    names = ["ordinal", *columns]
    found = [table.select(names) for unit in units if (table := ledger.read(layer, unit, columns)) is not None]
    return pa.concat_tables(found) if found else pa.schema([layer.schema.field(name) for name in names]).empty_table()


def _units_of(ordinals: Numbers, generations: list[Generation]) -> list[int]:
    units: list[int] = []
    for g in generations:
        inside = ordinals[(ordinals >= g.first_ordinal) & (ordinals < g.end_ordinal)]
        units += np.unique(g.first_unit + (inside - g.first_ordinal) // g.unit_rows).tolist()
    return units
