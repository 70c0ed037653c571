from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.score.asif import Asif, relative


def write(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path / "anchors.npz", **arrays)
    return str(path / "anchors.npz")


def score(stage: Asif, images: list[Any], texts: list[Any], widths: tuple[int, int]) -> list[float | None]:
    stage.check()
    columns = zip(("image_embedding", "text_embedding"), (images, texts), widths, strict=True)
    with stage.open() as transform:
        result = transform(pa.table({name: pa.array(rows, pa.list_(pa.float16(), width)) for name, rows, width in columns}))
    assert isinstance(result, pa.Table)
    assert result.schema == stage.writes()
    found: list[float | None] = result["asif_similarity"].to_pylist()
    return found


def test_by_hand(tmp_path: Path) -> None:
    """Two encoders of other widths; the third anchor pair is like nothing else."""
    images = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    texts = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 1]], np.float32)  # length does not count
    stage = Asif(anchors=write(tmp_path, images=images, texts=texts), k=2, p=2)
    found = score(stage, [[0.6, 0.8], [0.6, 0.8], None, [0, 1]], [[0.6, 0.8, 0], [0, 0, 1], [1, 0, 0], None], (2, 3))
    # Both are (0.36, 0.64, 0) over its own length; the second text is like the third anchor only.
    assert found == [pytest.approx(1, abs=1e-3), 0, None, None]
    found = score(stage.model_copy(update={"k": 1}), [[0.6, 0.8]], [[0.8, 0.6, 0]], (2, 3))
    assert found == [0]  # the nearest anchor alone counts, and it is another


def test_pairs_are_told_apart_through_what_they_have_in_common(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    meaning = generator.normal(size=(600, 6)).astype(np.float32)
    images, texts = (meaning @ generator.normal(size=(6, width)).astype(np.float32) for width in (20, 12))
    stage = Asif(anchors=write(tmp_path, images=images[:500], texts=texts[:500]), k=50)
    halves = [[(row / np.linalg.norm(row)).tolist() for row in side[500:]] for side in (images, texts)]
    matched = score(stage, halves[0], halves[1], (20, 12))
    mismatched = score(stage, halves[0], halves[1][1:] + halves[1][:1], (20, 12))
    assert np.mean(np.array(matched) > np.array(mismatched)) > 0.9


def test_rows_do_not_depend_on_their_company() -> None:
    generator = np.random.default_rng(0)
    vectors, anchors = (generator.normal(size=(n, 8)).astype(np.float32) for n in (40, 90))
    whole = relative(vectors, anchors, 10, 4)
    assert ((whole > 0).sum(axis=1) <= 10).all()
    np.testing.assert_allclose(whole[7:9], relative(vectors[7:9], anchors, 10, 4), atol=1e-6)
    np.testing.assert_array_equal(relative(vectors, anchors, 90, 2), relative(vectors, anchors, 1000, 2))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": np.ones((2, 3))}, "is not an .npz file with `images` and `texts`"),
        ({"images": np.ones((2, 3)), "texts": np.ones((3, 3))}, r"images of shape \(2, 3\), texts of \(3, 3\)"),
        ({"images": np.ones((1, 2)), "texts": np.array([[np.nan]])}, "finite rows"),
        ({"images": np.array([[{}]]), "texts": np.ones((1, 1))}, "is not an .npz file"),
    ],
)
def test_anchors_that_are_none(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Asif(anchors=write(tmp_path, **arrays)).check()
    with pytest.raises(ConfigError, match="there is no"):
        Asif(anchors=str(tmp_path / "none.npz")).check()


def test_vectors_of_another_encoder_are_refused(tmp_path: Path) -> None:
    stage = Asif(anchors=write(tmp_path, images=np.ones((2, 3), np.float32), texts=np.ones((2, 3), np.float32)))
    with pytest.raises(ValueError, match="'image_embedding' has 2 dimensions, the anchors have 3"):
        score(stage, [[1, 0]], [[1, 0, 0]], (2, 3))
