import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.score.clip_similarity import ClipSimilarity


def column(vectors: list[list[float] | None], dim: int) -> pa.Array:
    halves = [None if vector is None else np.float16(vector) for vector in vectors]
    return pa.array(halves, type=schema.embedding("v", dim).type)


def score(table: pa.Table, stage: ClipSimilarity | None = None) -> pa.Table:
    stage = stage or ClipSimilarity()
    stage.check()
    with stage.open() as transform:
        result = transform(table)
    assert isinstance(result, pa.Table)
    return result


def random_table(rows: int, dim: int) -> pa.Table:
    generator = np.random.default_rng(0)
    columns = []
    for _ in range(2):
        vectors = generator.normal(size=(rows, dim))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        columns.append(column([None if i % 5 == _ else vector for i, vector in enumerate(vectors.tolist())], dim))
    return pa.table({"ordinal": range(rows), "image_embedding": columns[0], "text_embedding": columns[1]})


def test_same_opposite_and_orthogonal() -> None:
    table = pa.table(
        {
            "image_embedding": column([[1, 0], [1, 0], [1, 0], [0.6, 0.8]], 2),
            "text_embedding": column([[1, 0], [-1, 0], [0, 1], [0.8, 0.6]], 2),
        }
    )
    result = score(table)
    assert result.schema == ClipSimilarity().writes()
    assert result["clip_similarity"].to_pylist() == pytest.approx([1, -1, 0, 0.96], abs=1e-3)


def test_rounding_never_leaves_the_range() -> None:
    long = [[1.001, 0.01]] * 2  # as float16 rounding can leave a unit vector
    table = pa.table({"image_embedding": column(long, 2), "text_embedding": column([[1.001, 0.01], [-1.001, -0.01]], 2)})
    assert score(table)["clip_similarity"].to_pylist() == [1, -1]


def test_null_where_either_is_null() -> None:
    table = pa.table(
        {
            "image_embedding": column([[1, 0], None, [1, 0], None], 2),
            "text_embedding": column([None, [1, 0], [1, 0], None], 2),
        }
    )
    assert score(table)["clip_similarity"].to_pylist() == [None, None, 1, None]


def test_chunks_and_slices_keep_their_rows() -> None:
    table = random_table(50, 16)
    expected = [
        None if a is None or b is None else float(np.dot(np.float32(a), np.float32(b)))
        for a, b in zip(table["image_embedding"].to_pylist(), table["text_embedding"].to_pylist(), strict=True)
    ]
    pieces = pa.concat_tables([table.slice(7, 13), table.slice(0, 7), table.slice(20)])
    scores = score(pieces)["clip_similarity"].to_pylist()
    in_order = expected[7:20] + expected[:7] + expected[20:]
    assert [s is None for s in scores] == [e is None for e in in_order]
    assert [s for s in scores if s is not None] == pytest.approx([e for e in in_order if e is not None], abs=1e-6)


def test_empty_and_all_null() -> None:
    table = random_table(10, 4)
    assert score(table.slice(0, 0)).num_rows == 0
    nulls = pa.table({name: column([None, None], 4) for name in ("image_embedding", "text_embedding")})
    assert score(nulls)["clip_similarity"].to_pylist() == [None, None]


def test_other_columns_can_be_named() -> None:
    stage = ClipSimilarity(image_embedding="l14_image_embedding", text_embedding="l14_text_embedding")
    assert stage.reads() == ("l14_image_embedding", "l14_text_embedding")
    table = random_table(10, 4).rename_columns(["ordinal", *stage.reads()])
    assert score(table, pickle.loads(pickle.dumps(stage))).equals(score(random_table(10, 4)))


def test_one_column_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="name two columns"):
        ClipSimilarity(text_embedding="image_embedding").check()


def test_vectors_of_two_models_are_refused() -> None:
    table = pa.table({"image_embedding": column([[1, 0]], 2), "text_embedding": column([[1, 0, 0]], 3)})
    with pytest.raises(ValueError, match="not of one model"):
        score(table)


def test_never_imports_torch() -> None:
    code = "import sys, pairsift.stages.score.clip_similarity; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
