"""Byte ranges, from a disk and from a store, in whatever order and company."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsift.pipeline.ledger import ranges
from pairsift.pipeline.ledger.ranges import References, read_into

DATA = np.random.default_rng(0).bytes(100_000)
STORE = "memory://pairsift-ranges"


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files on a disk and two in a store, all with the same bytes."""
    folder = tmp_path_factory.mktemp("ranges")
    found = [str(folder / "0"), str(folder / "1"), f"{STORE}/2", f"{STORE}/3"]
    for uri in found:
        with fsspec.open(uri, "wb") as file:
            file.write(DATA)
    return found


def read(uris: list[str], wanted: list[tuple[int, int, int]]) -> list[bytes]:
    """Of (file, offset, length)."""
    columns = np.array(wanted, np.int64).reshape(-1, 3)
    places = [bytearray(length) for _, _, length in wanted]
    read_into(References(uris, *columns.T), [memoryview(place) for place in places])
    return [bytes(place) for place in places]


RANGE = st.tuples(st.integers(0, 3), st.integers(0, len(DATA)), st.integers(0, 3000)).map(
    lambda r: (r[0], r[1], min(r[2], len(DATA) - r[1]))
)


@given(wanted=st.lists(RANGE, max_size=30))
def test_any_ranges(uris: list[str], wanted: list[tuple[int, int, int]]) -> None:
    assert read(uris, wanted) == [DATA[offset : offset + length] for _, offset, length in wanted]


@pytest.mark.parametrize("file", [0, 2])
def test_more_neighbours_than_one_read_takes(uris: list[str], file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_REQUEST", 700)
    wanted = [(file, 60 * i, 50) for i in range(1600)]
    assert read(uris, wanted) == [DATA[60 * i : 60 * i + 50] for i in range(1600)]


@pytest.mark.parametrize("file", [0, 2])
def test_a_file_that_ends_too_early(uris: list[str], file: int) -> None:
    with pytest.raises(OSError, match="ends before byte 100,001: the file is damaged or was replaced; `pairsift check`"):
        read(uris, [(file, 10, 5), (file, 99_999, 2)])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: images lie in it, and it is missing; `pairsift check`"):
        read([str(tmp_path / "none")], [(0, 0, 1)])
