import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError, Scratch
from pairsift.stages.dedup.kmeans import chance
from pairsift.stages.dedup.semantic import Semantic
from pairsift.stages.fates import Status

Found = Callable[..., pa.Table]


def column(vectors: Any, mask: Any = None, kind: Any = np.float16) -> pa.Array:
    values = pa.array(np.asarray(vectors, kind).ravel())
    return pa.FixedSizeListArray.from_arrays(values, np.shape(vectors)[1], mask=None if mask is None else pa.array(mask))


def families(rows: int, dim: int, seed: int = 0) -> Any:
    """Vectors around some topics, a fifth of them near to another one, as float16."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(20, dim))[rng.integers(0, 20, rows)] * 0.8 + rng.normal(size=(rows, dim))
    twins, of = rng.integers(0, rows, (2, rows // 5))
    vectors[twins] = vectors[of] + rng.uniform(0.05, 0.6, (len(of), 1)) * rng.normal(size=(len(of), dim))
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float16)


def brute(vectors: Any, order: Any, similarity: float) -> dict[int, float]:
    """Row → its largest cosine with a row that stands before it, where that is above `similarity`. All with all."""
    unit = vectors.astype(np.float64)
    unit = (unit / np.linalg.norm(unit, axis=1)[:, None])[order]
    gone = {}
    for start in range(0, len(unit), 2000):
        cosines = unit[start : start + 2000] @ unit[: start + 2000].T
        before = np.arange(cosines.shape[1]) < np.arange(start, start + len(cosines))[:, None]
        best = cosines.max(axis=1, where=before, initial=-2)
        gone |= {int(order[start + n]): float(best[n]) for n in np.flatnonzero(best > similarity)}
    return gone


def test_with_one_cluster_it_equals_brute_force_on_20_000_vectors(tmp_path: Path) -> None:
    vectors = families(20_000, 24)
    rows = pa.table({"ordinal": np.arange(20_000), "generation": [0] * 20_000, "image_embedding": column(vectors)})
    rule = Semantic(clusters=1, keep="random", similarity=0.95)
    gone = rule.find(rows.to_reader(3000), Scratch(str(tmp_path), 1 << 26)).sort_by("ordinal")
    order = np.argsort(chance(np.arange(20_000), 0), kind="stable")
    expected = dict(sorted(brute(vectors, order, 0.95).items()))
    assert gone["ordinal"].to_pylist() == list(expected)
    assert 1000 < len(expected) < 5000
    np.testing.assert_allclose(gone["score"].to_numpy(), list(expected.values()), atol=2e-7)
    assert not set(gone["duplicate_of"].to_pylist()) & set(expected)


def test_the_order_is_semdedups(found: Found) -> None:
    """Of two that are too similar, `hard` keeps the one far from the centroid, `easy` the near one."""
    angles = np.radians([0, 8, 20, 40, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # the centroid is at about 25 degrees
    above = float(np.cos(np.radians(15)))
    gone = {
        keep: found(Semantic(clusters=1, similarity=above, keep=keep), image_embedding=column(vectors))
        for keep in ("hard", "easy")
    }
    # hard: 60, 0, 8 (near 0), 40, 20 (near 8, which went for 0); easy: 20, 40, 8 (near 20), 0 (near 8), 60
    assert gone["hard"]["ordinal"].to_pylist() == [11, 12]
    assert gone["hard"]["duplicate_of"].to_pylist() == [10, 10]
    np.testing.assert_allclose(gone["hard"]["score"].to_numpy(), np.cos(np.radians([8, 12])), atol=1e-3)
    assert gone["easy"]["ordinal"].to_pylist() == [10, 11]
    assert gone["easy"]["duplicate_of"].to_pylist() == [12, 12]


@pytest.mark.parametrize("clusters", [None, 1, 7, 5000])
@pytest.mark.parametrize("keep", ["hard", "random"])
def test_the_order_of_rows_batches_and_blocks_is_nothing(
    keep: Any, clusters: int | None, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"image_embedding": column(families(400, 16)), "generation": np.sort(np.arange(400) % 3)}
    rule = Semantic(clusters=clusters, keep=keep, similarity=0.9)
    expected = found(rule, **columns)
    assert 40 < len(expected) < 200
    monkeypatch.setattr("pairsift.stages.dedup.semantic._BLOCK", 33)
    monkeypatch.setattr("pairsift.stages.dedup.kmeans._BLOCK", 500)
    for seed in range(2):
        assert found(rule, order=np.random.default_rng(seed).permutation(400), memory=seed << 24, **columns) == expected


def test_threads_are_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", families(3000, 48))
    code = """if True:
        import sys, numpy as np, pyarrow as pa
        from pairsift.stages.base import Scratch
        from pairsift.stages.dedup.semantic import Semantic
        vectors = np.load(sys.argv[1] + "/vectors.npy")
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 48)
        rows = pa.table({"ordinal": np.arange(3000), "generation": [0] * 3000, "image_embedding": column})
        gone = Semantic(clusters=20).find(rows.to_reader(), Scratch(sys.argv[1], 1 << 26))
        import hashlib
        print(len(gone), hashlib.md5(repr(gone.to_pylist()).encode()).hexdigest())
    """
    told = set()
    for threads in ("1", "2"):
        environment = {"PATH": "", "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = [sys.executable, "-c", code, str(tmp_path)]
        told.add(subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(told) == 1
    assert int(told.pop().split()[0]) > 100


def test_new_input_takes_nothing_out(found: Found) -> None:
    vectors = families(600, 16)
    rule = Semantic(clusters=6, similarity=0.9)
    old = found(rule, image_embedding=column(vectors[:400]), generation=[0] * 400)
    both = found(rule, image_embedding=column(vectors), generation=[0] * 400 + [1] * 200)
    assert both.filter(pa.array(both["ordinal"].to_numpy() < 410)) == old
    assert len(both) > len(old)


def test_rows_without_a_direction_are_nobodys_duplicate(found: Found) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [np.nan, 1], [np.inf, 1], [1, 0], [2, 0]], np.float32)
    mask = [False] * 6 + [True, False]
    gone = found(Semantic(), image_embedding=column(vectors, mask, np.float32))
    assert gone.to_pylist() == [{"ordinal": n, "duplicate_of": 10, "score": 1.0} for n in (11, 17)], "lengths are nothing"


def test_nothing_to_compare(found: Found) -> None:
    for vectors in (np.zeros((0, 4)), np.zeros((3, 4)), np.ones((1, 4))):
        assert len(found(Semantic(), image_embedding=column(vectors))) == 0


@pytest.mark.parametrize(
    "vectors", [pa.array([[1.0, 0.0]]), pa.array(["a"]), pa.FixedSizeListArray.from_arrays(pa.array([1, 2]), 2)]
)
def test_a_column_that_is_no_vectors(vectors: pa.Array, found: Found) -> None:
    with pytest.raises(ConfigError, match=r"column 'image_embedding' is .*, not a fixed_size_list of floats"):
        found(Semantic(), image_embedding=vectors)


def test_what_it_says_of_itself() -> None:
    assert Semantic(by="text_embedding", similarity=0.9).label() == "text_embedding above 0.9"
    assert Semantic().reads() == ("image_embedding",)
    assert Semantic().status is Status.DUPLICATE
