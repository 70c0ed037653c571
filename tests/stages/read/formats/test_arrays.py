from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats.arrays import beside, open_npy, open_npz


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_rows_are_read_in_turn(tmp_path: Path, kind: np.dtype) -> None:
    values = np.arange(12).reshape(4, 3).astype(kind)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", v=values)
    np.savez_compressed(tmp_path / "b.npz", v=values)
    with ExitStack() as stack:
        opened = [open_npz(stack, str(tmp_path / name), "v") for name in ("a.npz", "b.npz")]
        for array in (open_npy(stack, str(tmp_path / "a.npy")), *opened):
            assert (array.rows, array.width) == (4, 3)
            assert array.take(1).tolist() == [[0, 1, 2]]
            assert array.take(3).tolist() == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]
            assert array.take(0).shape == (0, 3)


def test_what_is_cut_short_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3), np.float32))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"a\.npy is cut short: its header promises 4 rows"):
        open_npy(stack, str(tmp_path / "a.npy")).take(4)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{"a": 1}]], object), allow_pickle=True)
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"a\.npy is object of shape \(1, 1\), not a vector of floats"):
        open_npy(stack, str(tmp_path / "a.npy"))
    (tmp_path / "b.npy").write_bytes(b"no array at all")
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"b\.npy is no array"):
        open_npy(stack, str(tmp_path / "b.npy"))


@pytest.mark.parametrize(
    ("uri", "pattern", "expected"),
    [
        ("/data/metadata/metadata_0012.parquet", "../img_emb/img_emb_{}.npy", "/data/img_emb/img_emb_0012.npy"),
        ("/data/00003.parquet", "{}.npy", "/data/00003.npy"),
        ("s3://bucket/a/b/00003.parquet", "../../c/v_{}.npy", "s3://bucket/c/v_00003.npy"),
        ("/data/a.parquet", "/else/where.npy", "/else/where.npy"),
    ],
)
def test_where_a_pattern_leads(uri: str, pattern: str, expected: str) -> None:
    assert beside(uri, pattern) == expected


def test_a_number_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"asks for a number at the end of a file's name; 'rows.parquet' has none"):
        beside("/data/rows.parquet", "{}.npy")
