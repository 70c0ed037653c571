from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.score import centroids as module
from pairsift.stages.score.nearest import NearestCentroid
from pairsift.stages.score.nearest_list import main


def column(vectors: np.ndarray, missing: list[bool] | None = None) -> pa.Table:
    flat = pa.array(vectors.astype(np.float16).ravel())
    mask = None if missing is None else pa.array(missing)
    return pa.table({"image_embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=mask)})


def answer(stage: NearestCentroid, batch: pa.Table) -> dict[str, list[Any]]:
    stage.check()
    with stage.open() as transform:
        result = transform(batch)
    assert isinstance(result, pa.Table)
    assert result.schema == stage.writes()
    found: dict[str, list[Any]] = result.to_pydict()
    return found


def saved(tmp_path: Path, centroids: Any, listed: str | None = None) -> NearestCentroid:
    np.save(tmp_path / "centroids.npy", centroids)
    if listed is not None:
        (tmp_path / "listed.txt").write_text(listed)
    return NearestCentroid(
        centroids=str(tmp_path / "centroids.npy"), listed=None if listed is None else str(tmp_path / "listed.txt")
    )


def test_the_largest_inner_product_wins_not_the_largest_cosine(tmp_path: Path) -> None:
    stage = saved(tmp_path, np.array([[0.1, 0], [0.5, 0.5], [0, 0.9], [0, 0.9]], np.float32), "2\n\n1\n")
    vectors = np.array([[1, 0], [0, 1], [0, 0], [-1, 0]], np.float32)
    found = answer(stage, column(vectors, [False, False, True, False]))
    assert found["cluster"] == [1, 2, None, 2]  # of equal ones the first
    assert found["cluster_similarity"] == pytest.approx([0.5, 0.9, None, 0])
    assert found["cluster_listed"] == [True, True, False, True]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_many_vectors_as_datacomp_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """The same places as torch's einsum and argmax over all at once, though they are taken in blocks."""
    import torch

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 64)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    centroids: Any = (rng.normal(size=(500, 64)) * rng.uniform(0.05, 0.12, (500, 1))).astype(kind)
    monkeypatch.setattr(module, "_SCORES", 500 * 700)
    products = torch.einsum("ik, jk -> ij", torch.from_numpy(vectors).float(), torch.from_numpy(centroids).float())
    found = answer(saved(tmp_path, centroids), column(vectors))
    assert found["cluster"] == torch.argmax(products, dim=1).tolist()
    assert found["cluster_similarity"] == pytest.approx(products.max(dim=1).values.tolist(), abs=1e-6)


def test_the_command_lists_the_centroids_that_are_hit(tmp_path: Path) -> None:
    stage = saved(tmp_path, np.eye(5, dtype=np.float32))
    for name, rows in (("a", [4, 1]), ("b", [1, 0])):
        np.save(tmp_path / f"{name}.npy", np.eye(5, dtype=np.float16)[rows])
    files = [option for name in "ab" for option in ("--vectors", str(tmp_path / f"{name}.npy"))]
    main(["--centroids", stage.centroids, *files, "--out", str(tmp_path / "listed.txt")])
    assert (tmp_path / "listed.txt").read_text() == "0\n1\n4\n"
    np.save(tmp_path / "a.npy", np.eye(4))
    with pytest.raises(ConfigError, match=r"a.npy has 4 dimensions, the centroids 5"):
        main(["--centroids", stage.centroids, *files])


@pytest.mark.parametrize(
    ("centroids", "says"),
    [
        (np.zeros(4, np.float32), r"is float32 of shape \(4,\)"),
        (np.zeros((0, 4), np.float32), r"of shape \(0, 4\)"),
        (np.zeros((2, 4), np.int64), "is int64"),
        (np.full((2, 4), np.nan), "not finite"),
        (np.array([[None]]), "cannot be read as an .npy file"),
    ],
)
def test_files_that_are_no_centroids(tmp_path: Path, centroids: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        saved(tmp_path, centroids).check()


def test_lists_and_columns_that_do_not_fit(tmp_path: Path) -> None:
    for listed in ("5\n", "-1\n", "one\n"):
        with pytest.raises(ConfigError, match="is no row of the 5 centroids, from 0"):
            saved(tmp_path, np.eye(5), listed).check()
    with pytest.raises(ConfigError, match=r"none.npy cannot be read"):
        NearestCentroid(centroids=str(tmp_path / "none.npy")).check()
    with pytest.raises(ValueError, match="has 4 dimensions, the centroids have 5"):
        answer(saved(tmp_path, np.eye(5)), column(np.eye(4)))


def test_it_is_known_by_its_files(tmp_path: Path) -> None:
    found = {saved(tmp_path, np.eye(5)).identity()}
    found.add(saved(tmp_path, np.eye(5), "1\n").identity())
    found.add(saved(tmp_path, np.eye(5), "2\n").identity())
    found.add(saved(tmp_path, np.eye(4), "2\n").identity())
    assert len(found) == 4
