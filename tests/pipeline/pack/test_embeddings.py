"""Embeddings beside shards: as others read them, and like shards in all that may happen to them."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.upkeep.check import check, fix
from pairsift.stages.base import ConfigError
from pairsift.stages.read.img2dataset import Img2dataset

Run = Callable[..., Any]


@pytest.fixture
def go(tmp_path: Path, photos: dict[str, bytes], tiny_clip: Callable[[int], str]) -> Run:
    """Eight photos, one without a caption, in shards of three, with the vectors of two models."""
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        for number, data in enumerate([photos[name] for name in sorted(photos) if name.endswith("jpg")][:8]):
            members = {"jpg": data} if number == 4 else {"jpg": data, "txt": f"photo {number}".encode()}
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:03d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    def run(*, replace: bool = False, runner: str = "local", **shards: Any) -> Any:
        config = {
            "input": {"use": "read.webdataset", "path": str(tmp_path / "source.tar"), "unit_rows": 3},
            "output": str(tmp_path / "out"),
            "stages": [
                {"use": "embed", "model": tiny_clip(0)},
                {"use": "embed", "model": tiny_clip(1), "as": "other", "only": "images"},
                {"use": "filter.where", "keep": "ordinal <> 1"},
            ],
            "shards": {"rows": 3, "embeddings": "clip-retrieval", **shards},
        }
        return pairsift.run(config, runner=runner, replace=replace)

    return run


def hashes(folder: Path) -> dict[str, str]:
    found = [path for pattern in ("shards/*", "embeddings/**/*") for path in folder.glob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def expected(output: Path, key: str, column: str) -> np.ndarray:
    """What the layers hold of a key."""
    for file in output.glob("work/layers/*embed-*/*/*.parquet"):
        table = pq.read_table(file)
        for row in table.to_pylist() if column in table.column_names else ():
            if f"{row['ordinal']:09d}" == key:
                return np.array(row[column] if row[column] is not None else [0] * 16, np.float16)
    raise AssertionError(key)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("shards", [{}, {"shuffle_seed": 3}, {"layout": "img2dataset", "rows": 4}])
def test_embedding_reader_reads_it(go: Run, tmp_path: Path, shards: dict[str, Any]) -> None:
    from embedding_reader import EmbeddingReader

    go(**shards)
    out = tmp_path / "out"
    keys = []
    for shard in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            keys += [name.partition(".")[0] for name in tar.getnames() if name.endswith(".jpg")]
    for model, kind, column in (
        ("embeddings", "img_emb", "image_embedding"),
        ("embeddings", "text_emb", "text_embedding"),
        ("embeddings/other", "img_emb", "other_image_embedding"),
    ):
        reader = EmbeddingReader(
            embeddings_folder=str(out / model / kind),
            metadata_folder=str(out / model / "metadata"),
            file_format="parquet_npy",
            meta_columns=["image_path", "uid", "caption"],
        )
        assert (reader.count, reader.dimension) == (7, 16)
        [(vectors, rows)] = list(reader(batch_size=100, start=0, end=7, show_progress=False))
        assert rows["image_path"].tolist() == keys
        uids = {uid: f"{n:09d}" for n, uid in enumerate(pq.read_table(out / "fates.parquet")["uid"].to_pylist())}
        ordinals = [uids[uid] for uid in rows["uid"]]
        np.testing.assert_array_equal(vectors, np.stack([expected(out, key, column) for key in ordinals]).astype(vectors.dtype))
        if kind == "text_emb":
            assert (np.linalg.norm(vectors, axis=1) == 0).sum() == 1  # no caption: zeros
    assert not (out / "embeddings" / "other" / "text_emb").exists()
    first = np.load(out / "embeddings" / "img_emb" / "img_emb_00000.npy")
    assert (first.dtype, first.flags["C_CONTIGUOUS"], first.shape) == (np.float16, True, (3, 16))


def test_what_is_gone_or_was_left_is_seen_to(go: Run, tmp_path: Path) -> None:
    go()
    out = tmp_path / "out"
    before = hashes(out)
    assert len([name for name in before if name.startswith("embeddings")]) == 3 * 5
    (out / "embeddings" / "other" / "img_emb" / "img_emb_00001.npy").unlink()
    (out / "embeddings" / "img_emb" / "img_emb_00009.npy").write_bytes(b"of a shard that is no more")
    assert go().report["shards_written"] == 1
    assert hashes(out) == before
    assert go().report["shards_written"] == 0
    go(embeddings=None, replace=True)
    assert set(hashes(out)) == {name for name in before if name.startswith("shards")}


def test_damage_is_found_and_made_again(go: Run, tmp_path: Path) -> None:
    go()
    out = tmp_path / "out"
    before = hashes(out)
    found = check(str(out), lambda _: None)
    assert found.problems == []
    assert found.looked["files of embeddings"] == 15
    vectors = out / "embeddings" / "img_emb"
    (vectors / "img_emb_00000.npy").write_bytes(b"")
    np.save(vectors / "img_emb_00001.npy", np.load(vectors / "img_emb_00001.npy")[1:])
    np.save(out / "embeddings" / "text_emb" / "text_emb_00000.npy", np.full((3, 16), np.nan, np.float16))
    (out / "embeddings" / "metadata" / "metadata_00002.parquet").unlink()
    found = check(str(out), lambda _: None)
    told = {problem.where.rpartition("/")[2]: problem.what for problem in found.problems}
    assert told["img_emb_00001.npy"] == "has 2 vectors, the shard 3 samples"
    assert told["text_emb_00000.npy"] == "vector 0 is neither of length 1 nor zero"
    assert told["metadata_00002.parquet"] == "is missing"
    assert told.keys() == {"img_emb_00000.npy", "img_emb_00001.npy", "text_emb_00000.npy", "metadata_00002.parquet"}
    fix(str(out), found.problems)
    go()
    assert hashes(out) == before


def test_both_runners_write_the_same_and_a_shard_reads_back(go: Run, tmp_path: Path, ray_session: None) -> None:
    go()
    out = tmp_path / "out"
    before = hashes(out)
    for file in [*(out / "shards").glob("*"), *(out / "embeddings").glob("**/*.npy")]:
        file.unlink()
    go(runner="ray")
    assert hashes(out) == before
    names = {"image_embedding": "../embeddings/img_emb/img_emb_{}.npy"}
    reader = Img2dataset(path=str(out / "shards"), vectors=names)
    rows = [row for source in reader.sources() for table in reader.read(source) for row in table.to_pylist()]
    assert [row["failure"] for row in rows] == [None] * 7
    np.testing.assert_array_equal(rows[0]["image_embedding"], np.load(out / "embeddings/img_emb/img_emb_00000.npy")[0])


def test_nothing_to_write_is_refused(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> None:
    config = {"input": captions(["a"]), "output": str(tmp_path / "out"), "shards": {"embeddings": "clip-retrieval"}}
    with pytest.raises(ConfigError, match=r"shards\.embeddings: no stage and no input gives image_embedding or text_embedding"):
        pairsift.run(config, runner="local")
