from pathlib import Path

import pyarrow as pa

from pairsift.pipeline.ledger.layers import Layer, Ledger


def test_a_layer_reads_back_with_its_types_and_nulls(tmp_path: Path) -> None:
    columns = {
        # Arrow before 26 writes nulls in fixed-size lists, and cannot read what it wrote.
        "image_embedding": pa.array([None, [0.5, -0.5], None], pa.list_(pa.float16(), 2)),
        "text": pa.array(["x", None, "z"], pa.large_string()),
        "took": pa.array([None, 2, 3], pa.duration("ms")),
        "when": pa.array([1, None, 3], pa.timestamp("s", "Europe/Berlin")),
        "nested": pa.array([{"v": None}, None, {"v": [1]}], pa.struct([("v", pa.list_(pa.int8(), 1))])),
    }
    layer = Layer.of("stage-0", pa.schema([(name, column.type) for name, column in columns.items()]))
    fates = [pa.array([None, None, "not_finite"], pa.string()), pa.nulls(3, pa.string())]
    table = pa.table([pa.array([4, 5, 6], pa.int64()), *columns.values(), *fates], schema=layer.schema)
    ledger = Ledger(str(tmp_path))
    assert ledger.read(layer, 7) is None
    ledger.commit(layer, 7, table)
    assert ledger.read(layer, 7) == table
    part = ledger.read(layer, 7, ["took", "image_embedding"])
    assert part is not None
    assert part == table.select(["ordinal", "took", "image_embedding", "failure"])
    assert part.schema == table.select(part.column_names).schema
