"""Embeddings that others made: DataComp's pools, clip-retrieval's folders, columns of Parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.image_parquet import ImageParquet
from pairsift.stages.read.img2dataset import Img2dataset
from pairsift.stages.read.urls import Urls

VECTORS = {"image_embedding": "l14_img", "text_embedding": "l14_txt"}
NPY = {"image_embedding": "../img_emb/img_emb_{}.npy", "text_embedding": "../text_emb/text_emb_{}.npy"}


def unit(rows: int, width: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def pool(folder: Path, name: str, rows: int = 30, width: int = 8, **arrays: Any) -> dict[str, Any]:
    found = {"l14_img": unit(rows, width, 1), "l14_txt": unit(rows, width, 2)} | arrays
    columns = {"uid": [f"{n:032x}" for n in range(rows)], "url": [f"http://{n}" for n in range(rows)], "text": ["t"] * rows}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=7)
    np.savez(folder / f"{name}.npz", **{key: value for key, value in found.items() if value is not None})
    return found


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float32)


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
        ({"l14_img": unit(29, 8, 1)}, "'l14_img' has 29 rows, and the file has 30"),
        ({"l14_img": unit(31, 8, 1)}, "'l14_img' has 31 rows, and the file has 30"),
        ({"l14_txt": None}, "has no array 'l14_txt'; it has l14_img"),
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
    with pytest.raises(ConfigError, match="'sha256' is a column that pairsift writes itself"):
        Urls(path=str(tmp_path / "a.parquet"), preset="datacomp", vectors={"sha256": "l14_img"}).check()


def clip_retrieval(folder: Path, rows: int, part: str) -> dict[str, np.ndarray]:
    made = {"img_emb": unit(rows, 8, 1), "text_emb": unit(rows, 8, 2)}
    for name, values in made.items():
        (folder / name).mkdir(exist_ok=True)
        np.save(folder / name / f"{name}_{part}.npy", values)
    (folder / "metadata").mkdir(exist_ok=True)
    columns = {"image_path": [f"{n:09d}" for n in range(rows)], "caption": ["c"] * rows, "url": ["http://a"] * rows}
    pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{part}.parquet", row_group_size=3)
    return made


def test_what_clip_retrieval_wrote(tmp_path: Path) -> None:
    first, second = clip_retrieval(tmp_path, 7, "00"), clip_retrieval(tmp_path, 4, "01")
    found = reading.table(Urls(path=str(tmp_path / "metadata"), vectors=NPY))
    for ours, theirs in (("image_embedding", "img_emb"), ("text_embedding", "text_emb")):
        # Already of length 1: to the bit.
        np.testing.assert_array_equal(matrix(found[ours]), np.concatenate([first[theirs], second[theirs]]).astype(np.float32))
    (tmp_path / "img_emb" / "img_emb_01.npy").unlink()
    with pytest.raises(ConfigError, match=r"img_emb_01\.npy cannot be read"):
        reading.table(Urls(path=str(tmp_path / "metadata"), vectors=NPY))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 4), pa.large_list(pa.float64())])
@pytest.mark.parametrize("reader", ["urls", "image_parquet"])
def test_a_column_of_parquet(tmp_path: Path, kind: pa.DataType, reader: str) -> None:
    vectors = [[1.0, 0, 0, 0], None, [0.0, 3, 4, 0], [0.0, 0, 0, 0], [0.0, float("nan"), 1, 0], [1e30, 1e30, 0, 0]]
    columns = {"url": ["http://a"] * 6, "jpg": [b"\xff\xd8\xff\xe0 photo"] * 6, "emb": pa.array(vectors, kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=4)
    path, names = str(tmp_path / "a.parquet"), {"image_embedding": "emb"}
    found = reading.table(Urls(path=path, vectors=names) if reader == "urls" else ImageParquet(path=path, vectors=names))
    assert found.schema.field("image_embedding").type == pa.list_(pa.float16(), 4)
    assert "emb" not in found.column_names
    half = float(np.float16(np.sqrt(0.5)))
    read = found["image_embedding"].to_pylist()
    assert read[:2] == [[1, 0, 0, 0], None]
    np.testing.assert_allclose(read[2], [0, 0.6, 0.8, 0], atol=1e-3)
    assert read[3:] == [None, None, [half, half, 0, 0]]
    assert found["failure"].to_pylist() == [None, None, None, None, "not_finite", None]
    assert "row 4: not a vector of finite numbers" in found["failure_detail"][4].as_py()


def test_vectors_of_several_lengths_in_one_column(tmp_path: Path) -> None:
    emb = pa.array([[], [1.0, 0], [1.0, 0, 0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"url": ["http://a"] * 3, "emb": emb}).slice(1), tmp_path / "a.parquet")
    found = reading.table(Urls(path=str(tmp_path / "a.parquet"), vectors={"image_embedding": "emb"}))
    assert found["failure"].to_pylist() == [None, "not_finite"]
    pq.write_table(pa.table({"url": ["http://a"], "emb": pa.array([None], pa.list_(pa.float32()))}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match="'emb' holds no vector"):
        Urls(path=str(tmp_path / "b.parquet"), vectors={"image_embedding": "emb"}).check()
    with pytest.raises(ConfigError, match="'url' is string, not a list of floats"):
        Urls(path=str(tmp_path / "b.parquet"), vectors={"image_embedding": "url"}).check()


def test_a_row_without_a_finite_vector_has_a_fate(tmp_path: Path) -> None:
    images = unit(30, 8, 1)
    images[3, 2], images[20] = np.inf, 0
    pool(tmp_path, "a", l14_img=images)
    source = {"use": "read.urls", "path": str(tmp_path / "a.parquet"), "preset": "datacomp", "vectors": VECTORS}
    config = {"input": source, "output": str(tmp_path / "out"), "stages": [{"use": "score.clip_similarity"}]}
    results = pairsift.run(config, runner="local")
    assert results.report["failures"] == {"not_finite": 1}
    assert results.sql("SELECT ordinal FROM ledger WHERE clip_similarity IS NULL ORDER BY 1").fetchall() == [(3,), (20,)]


@pytest.mark.parametrize("rows", [4, 2, 3])
def test_shards_with_vectors_of_all_rows_or_of_successes(tmp_path: Path, rows: int) -> None:
    import io
    import tarfile

    (tmp_path / "shards").mkdir()
    (tmp_path / "img_emb").mkdir()
    with tarfile.open(tmp_path / "shards" / "00000.tar", "w") as tar:
        for key in ("000000000", "000000002"):
            info = tarfile.TarInfo(f"{key}.jpg")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"jpeg"))
    statuses = ["success", "failed_to_download", "success", "failed_to_resize"]
    columns = {"url": ["http://a"] * 4, "caption": ["c"] * 4, "key": [f"{n:09d}" for n in range(4)], "status": statuses}
    pq.write_table(pa.table({**columns, "error_message": [None, "x", None, "y"]}), tmp_path / "shards" / "00000.parquet")
    vectors = unit(rows, 8, 1)
    np.save(tmp_path / "img_emb" / "img_emb_00000.npy", vectors)
    reader = Img2dataset(path=str(tmp_path / "shards"), vectors={"image_embedding": NPY["image_embedding"]})
    if rows == 3:
        with pytest.raises(ConfigError, match="has 3 rows, and the file has 4, 2 of them successes"):
            reading.table(reader)
        return
    found = reading.table(reader)["image_embedding"]
    expected = list(range(4)) if rows == 4 else [0, None, 1, None]
    assert found.is_null().to_pylist() == [place is None for place in expected]
    np.testing.assert_array_equal(matrix(found.drop_null()), vectors[[p for p in expected if p is not None]].astype(np.float32))
