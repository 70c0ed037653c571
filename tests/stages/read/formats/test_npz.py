"""Embeddings beside metadata, as DataComp's pools have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.urls import Urls

VECTORS = {"image_embedding": "l14_img", "text_embedding": "l14_txt"}


def unit(rows: int, width: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def pool(folder: Path, name: str, rows: int = 30, width: int = 8, **arrays: Any) -> dict[str, Any]:
    found = {"l14_img": unit(rows, width, 1), "l14_txt": unit(rows, width, 2)} | arrays
    columns = {"uid": [f"{n:032x}" for n in range(rows)], "url": [f"http://{n}" for n in range(rows)], "text": ["t"] * rows}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=7)
    np.savez(folder / f"{name}.npz", **{key: value for key, value in found.items() if value is not None})
    return found


def test_scores_without_images_or_a_model(tmp_path: Path) -> None:
    first, second = pool(tmp_path, "a"), pool(tmp_path, "b", l14_img=unit(30, 8, 3).astype(np.float32))
    config = {
        "input": {
            "use": "read.urls",
            "path": str(tmp_path / "*.parquet"),
            "preset": "datacomp",
            "vectors": VECTORS,
            "unit_rows": 11,
        },
        "output": str(tmp_path / "out"),
        "stages": [{"use": "score.clip_similarity"}, {"use": "filter.where", "keep": "clip_similarity >= 0"}],
    }
    results = pairsift.run(config, runner="local")
    found = np.array(results.sql("SELECT clip_similarity FROM ledger ORDER BY ordinal").fetchall()).ravel()
    images, texts = (
        np.concatenate([part[name] for part in (first, second)]).astype(np.float32) for name in ("l14_img", "l14_txt")
    )
    np.testing.assert_allclose(found, (images * texts).sum(axis=1), atol=2e-3)
    assert results.report["kept"] == (found >= 0).sum()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"l14_img": unit(29, 8, 1)}, "'l14_img' has 29 rows, and the file has more"),
        ({"l14_img": unit(31, 8, 1)}, "'l14_img' has 31 rows, and the file has 30"),
        ({"l14_txt": None}, "has no array 'l14_txt' for text_embedding; it has l14_img"),
        ({"l14_txt": np.zeros(30)}, r"'l14_txt' is float64 of shape \(30,\), not a vector"),
        ({"l14_txt": np.zeros((30, 8), np.int64)}, "'l14_txt' is int64 of shape"),
        ({"l14_txt": np.array([{"a": 1}] * 30, object)}, "'l14_txt' is object of shape"),
    ],
)
def test_archives_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    pool(tmp_path, "a", **arrays)
    reader = Urls(path=str(tmp_path / "a.parquet"), preset="datacomp", vectors=VECTORS)
    with pytest.raises(ConfigError, match=says):
        assert list(reader.read(reader.sources()[0]))


def test_files_that_are_not_there_or_differ(tmp_path: Path) -> None:
    pool(tmp_path, "a")
    pool(tmp_path, "b", width=4)
    reader = Urls(path=str(tmp_path / "*.parquet"), preset="datacomp", vectors=VECTORS)
    with pytest.raises(ConfigError, match=r"b\.npz: 'l14_img' has vectors of 4, and the first file of 8"):
        list(reader.read(reader.sources()[1]))
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        Urls(path=str(tmp_path / "a.parquet"), preset="datacomp", vectors=VECTORS).check()
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        Urls(path=str(tmp_path / "a.parquet"), preset="datacomp", vectors=VECTORS).check()
    with pytest.raises(ConfigError, match="'uid' is a column of the files, too"):
        Urls(path=str(tmp_path / "a.parquet"), preset="datacomp", vectors={"uid": "l14_img"}).check()
