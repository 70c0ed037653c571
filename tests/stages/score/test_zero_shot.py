from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.score.zero_shot import ZeroShot


def write(path: Path, **arrays: np.ndarray) -> ZeroShot:
    np.savez(path / "labels.npz", **arrays)
    return ZeroShot(labels=str(path / "labels.npz"))


def score(stage: ZeroShot, rows: list[list[float] | None], dim: int) -> pa.Table:
    stage.check()
    with stage.open() as transform:
        result = transform(pa.table({"image_embedding": pa.array(rows, pa.list_(pa.float16(), dim))}))
    assert isinstance(result, pa.Table)
    assert result.schema == stage.writes()
    return result


def test_probabilities_are_the_softmax_of_scaled_cosines(tmp_path: Path) -> None:
    stage = write(tmp_path, names=np.array(["cat", "dog", "boat"]), vectors=np.array([[2, 0], [0, 1], [-1, 0]], np.float32))
    result = score(stage.model_copy(update={"scale": 2.0}), [[1, 0], None, [0, 1]], 2)
    expected = np.exp([2, 0, -2]) / np.exp([2, 0, -2]).sum()  # a label's length does not count
    assert result["label"].to_pylist() == ["cat", None, "dog"]
    assert result["label_probabilities"].to_pylist()[0] == pytest.approx(expected.tolist(), abs=1e-6)
    assert result["label_probability"].to_pylist()[0] == pytest.approx(expected[0], abs=1e-6)
    assert result["label_probabilities"].to_pylist()[1] is None
    assert sum(result["label_probabilities"].to_pylist()[2]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"names": np.array(["a"])}, "is not an .npz file with `names` and `vectors`"),
        ({"names": np.array(["a", "b"]), "vectors": np.ones((1, 2))}, "2 names and vectors of shape .1, 2."),
        ({"names": np.array(["a"]), "vectors": np.full((1, 2), np.nan)}, "a finite one for each"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        write(tmp_path, **arrays).check()


def test_a_missing_file_and_labels_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        ZeroShot(labels=str(tmp_path / "none.npz")).check()
    stage = write(tmp_path, names=np.array(["a"]), vectors=np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="has 2 dimensions, the labels have 3"):
        score(stage, [[1, 0]], 2)


def test_moving_the_file_changes_nothing(tmp_path: Path) -> None:
    stage = write(tmp_path, names=np.array(["a"]), vectors=np.ones((1, 3), np.float32))
    moved = tmp_path / "moved.npz"
    moved.write_bytes((tmp_path / "labels.npz").read_bytes())
    other = ZeroShot(labels=str(moved))
    assert (other.identity(), other.science()) == (stage.identity(), stage.science())
