"""Files of rows by partition."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages import exchange
from pairsift.stages.exchange import Exchange
from pairsift.stages.storage import Folder


def pieces(rows: int, partitions: int, at_a_time: int) -> list[tuple[pa.Table, np.ndarray]]:
    numbers = np.arange(rows)
    table = pa.table({"n": numbers, "text": [None if n % 5 == 0 else f"ü{n}" for n in range(rows)], "odd": numbers % 2 == 1})
    return [(table.slice(n, at_a_time), numbers[n : n + at_a_time] % partitions) for n in range(0, rows, at_a_time)]


@pytest.mark.parametrize("run_bytes", [1, 1 << 20])
def test_what_goes_in_comes_out(run_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_RUN_BYTES", run_bytes)
    place = pickle.loads(pickle.dumps(Exchange(Folder(str(tmp_path)), "folder/rows")))
    files = [place.write(pieces(rows, 7, 10), 0, 7) for rows in (100, 3)]
    for partition in range(7):
        found = pa.concat_tables(place.read(files, partition))
        assert found["n"].to_pylist() == [*range(partition, 100, 7), *range(partition, 3, 7)]
        assert found["text"].to_pylist() == [None if n % 5 == 0 else f"ü{n}" for n in found["n"].to_pylist()]
        assert found["odd"].to_pylist() == [n % 2 == 1 for n in found["n"].to_pylist()]


def test_a_file_says_which_partitions_it_has(tmp_path: Path) -> None:
    place = Exchange(Folder(str(tmp_path)), "rows")
    table = pa.table({"n": [5, 7, 5]})
    written = place.write([(table, np.array([5, 7, 5]))], 5, 8)
    assert written is not None
    assert [pa.concat_tables(found)["n"].to_pylist() for p in range(9) if (found := list(place.read([written], p)))] == [
        [5, 5],
        [7],
    ]


def test_no_rows_are_no_file(tmp_path: Path) -> None:
    place = Exchange(Folder(str(tmp_path)), "rows")
    assert place.write([], 0, 3) is None
    assert place.write([(pa.table({"n": pa.array([], pa.int64())}), np.zeros(0, np.int64))], 0, 3) is None
    assert not list(tmp_path.iterdir())


def test_in_an_object_store() -> None:
    place = Exchange(Folder("memory://exchange"), "folder/rows")
    written = place.write(pieces(50, 3, 50), 0, 3)
    assert written is not None
    assert pa.concat_tables(place.read([written], 1))["n"].to_pylist() == list(range(1, 50, 3))
