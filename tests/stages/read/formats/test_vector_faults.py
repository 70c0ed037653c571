"""Embeddings that others made, in each form with each fault: another length, too few, not a number."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

from pairsift.stages.base import ConfigError
from pairsift.stages.read.urls import Urls


def unit(rows: int, width: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


FAULTS = {
    ("npz", "dims"): r"b\.npz: 'v' has vectors of 5, and the first file of 8",
    ("npz", "count"): r"b\.npz: 'v' has 9 rows, and the file has 10",
    ("npy", "dims"): r"v_01\.npy has vectors of 5, and the first file of 8",
    ("npy", "count"): r"v_01\.npy has 9 rows, and the file has 10",
    ("column", "dims"): r"01\.parquet: 'v' has vectors of 5, and the first file of 8",
}


def two_files(folder: Path, form: str, second: Any) -> Urls:
    """Ten rows each; the vectors of the second are as given."""
    for number, vectors in enumerate((unit(10, 8, 1), second)):
        name = ("a", "b")[number] if form == "npz" else f"{number:02d}"
        columns = {"url": [f"http://{number}/{n}" for n in range(10)]}
        if form == "npz":
            np.savez(folder / f"{name}.npz", v=vectors)
        elif form == "npy":
            np.save(folder / f"v_{name}.npy", vectors)
        else:
            rows: list[Any] = [*vectors.astype(np.float32), *[None] * (10 - len(vectors))]
            columns["v"] = pa.array(rows, pa.list_(pa.float32(), vectors.shape[1]))
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return Urls(path=str(folder / "*.parquet"), vectors={"image_embedding": "v_{}.npy" if form == "npy" else "v"})


@pytest.mark.parametrize("form", ["npz", "npy", "column"])
def test_each_form_with_each_fault(tmp_path: Path, form: str) -> None:
    """Wrong dimensions and misaligned counts end the run with a line; a NaN is a row's fate."""
    bad = unit(10, 8, 2)
    bad[4, 1] = np.nan
    for fault, second in (("dims", unit(10, 5, 2)), ("count", unit(9, 8, 2)), ("nan", bad)):
        folder = tmp_path / fault
        folder.mkdir()
        reader = two_files(folder, form, second)
        says = FAULTS.get((form, fault))
        if says:
            with pytest.raises(ConfigError, match=says):
                reading.table(reader)
            continue
        found = reading.table(reader)
        failed = [None] * 14 + ["not_finite" if fault == "nan" else None] + [None] * 5
        assert found["failure"].to_pylist() == failed
        missing = {"nan": 14, "count": 19}[fault]  # a column has as many values as rows: what it lacks is null
        assert np.flatnonzero(found["image_embedding"].is_null()).tolist() == [missing]
