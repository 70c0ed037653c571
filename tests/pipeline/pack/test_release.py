"""The release: kept rows as a table, in columns that others know."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.ledger import copies
from pairsift.pipeline.pack import release
from pairsift.pipeline.upkeep.check import check, fix
from pairsift.stages.base import ConfigError

Listing = Callable[..., dict[str, Any]]
UIDS = [hashlib.md5(str(i).encode()).hexdigest() for i in range(10)]


@pytest.fixture
def run(tmp_path: Path, listing: Listing) -> Callable[..., Any]:
    rows = [
        {"url": f"http://example.com/{i}", "caption": f"caption {i}", "uid": UIDS[i], "similarity": i / 10, "punsafe": None}
        for i in range(10)
    ]
    columns = {name: name for name in ("url", "caption", "uid")}
    source = listing(rows, unit_rows=3, columns=columns, extra=["similarity", "punsafe"])
    stages = [{"use": "filter.where", "keep": "similarity >= 0.2"}]

    def go(**section: Any) -> Any:
        return pairsift.run({"input": source, "output": str(tmp_path / "out"), "stages": stages, **section}, runner="local")

    return go


def released(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    return {file.name: pq.read_table(file).to_pylist() for file in sorted((tmp_path / "out" / "release").glob("*.parquet"))}


def test_laions_columns_are_those_that_are_known(run: Any, tmp_path: Path) -> None:
    assert run(release={"columns": "laion"}).report["kept"] == 8
    files = released(tmp_path)
    assert list(files) == ["00000.parquet"]
    first = {"URL": "http://example.com/2", "TEXT": "caption 2", "similarity": 0.2, "punsafe": None}
    assert files["00000.parquet"][0] == first
    assert [row["TEXT"] for row in files["00000.parquet"]] == [f"caption {i}" for i in range(2, 10)]


def test_columns_of_ones_own_are_sql(run: Any, tmp_path: Path) -> None:
    run(release={"columns": {"LINK": "url", 'percent "%"': "round(100 * similarity)"}, "rows": 3})
    files = released(tmp_path)
    assert [len(rows) for rows in files.values()] == [3, 3, 2]
    assert files["00001.parquet"][0] == {"LINK": "http://example.com/5", 'percent "%"': 50.0}


def test_check_reads_the_release(run: Any, tmp_path: Path) -> None:
    run(release={"rows": 3, "subset": True})
    folder = tmp_path / "out" / "release"

    def problems() -> dict[str, str]:
        checked = check(str(tmp_path / "out"), lambda _: None)
        fix(str(tmp_path / "out"), checked.problems)
        return {Path(problem.where).name: problem.what for problem in checked.problems}

    assert problems() == {}
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    second = pq.read_table(folder / "00001.parquet")
    pq.write_table(second.slice(1), folder / "00001.parquet")
    (folder / "00002.parquet").unlink()
    np.save(folder / "subset.npy", np.load(folder / "subset.npy")[::-1])
    (folder / "00003.parquet").write_bytes(whole["00000.parquet"])
    middle = len(whole["00000.parquet"]) // 4
    (folder / "00000.parquet").write_bytes(whole["00000.parquet"][:middle] + b"damaged" + whole["00000.parquet"][middle + 7 :])
    found = problems()
    assert found.pop("00000.parquet").startswith("cannot be read: ")
    assert found == {
        "00001.parquet": "has 2 rows, and is to have 3",
        "00002.parquet": "is missing",
        "00003.parquet": "is not of this release",
        "subset.npy": "is no sorted list of uids",
    }
    run(release={"rows": 3, "subset": True})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert problems() == {}


def test_a_smaller_release_leaves_nothing_of_the_larger(run: Any, tmp_path: Path) -> None:
    run(release={"rows": 3, "subset": True})
    (tmp_path / "out" / "release" / "notes.txt").write_text("mine")
    run(release={"rows": 5})
    assert sorted(file.name for file in (tmp_path / "out" / "release").iterdir()) == [
        "00000.parquet",
        "00001.parquet",
        "notes.txt",
    ]
    run()
    assert [file.name for file in (tmp_path / "out" / "release").iterdir()] == ["notes.txt"]


def test_the_subset_is_datacomps(run: Any, tmp_path: Path) -> None:
    """As its apply_filter.py makes it: np.array([(int(uid[:16], 16), int(uid[16:32], 16))…], np.dtype("u8,u8")), sorted."""
    run(release={"columns": "datacomp", "subset": True})
    halves = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in UIDS[2:]]
    expected = np.sort(np.array(halves, np.dtype("u8,u8")))
    found = np.load(tmp_path / "out" / "release" / "subset.npy", allow_pickle=False)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert list(released(tmp_path)["00000.parquet"][0]) == ["uid", "url", "text"]


def test_uids_of_another_kind_are_no_subset(tmp_path: Path, listing: Listing) -> None:
    columns = {name: name for name in ("url", "caption", "uid")}
    source = listing([{"url": "http://example.com/1", "caption": "a", "uid": "first"}], columns=columns)
    with pytest.raises(ConfigError, match="32 hex digits"):
        pairsift.run({"input": source, "output": str(tmp_path / "out"), "release": {"subset": True}}, runner="local")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"columns": {"URL": "link"}}, "release.columns.URL: .*'link', which is not there"),
        ({"columns": {"URL": "url; DROP"}}, "release.columns.URL"),
        ({"columns": "coyo"}, "release: columns"),
        ({"columns": {}}, "release.columns: names no column"),
        ({"row": 5}, "release: row: unknown parameter"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run: Any, tmp_path: Path, section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(release=section)
    assert not (tmp_path / "out").exists()


def test_nothing_kept_is_a_table_without_rows(tmp_path: Path, listing: Listing) -> None:
    source = listing([{"url": "http://example.com/1", "caption": "a"}])
    stages = [{"use": "filter.where", "keep": "caption = 'b'"}]
    pairsift.run({"input": source, "output": str(tmp_path / "out"), "stages": stages, "release": {}}, runner="local")
    table = pq.read_table(tmp_path / "out" / "release" / "00000.parquet")
    assert (table.num_rows, table.column_names) == (0, ["URL", "TEXT"])


def test_row_groups_do_not_depend_on_blocks(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_GROUP", 4)
    file = tmp_path / "out" / "release" / "00000.parquet"
    run(release={})
    whole = file.read_bytes()
    assert [pq.ParquetFile(file).metadata.row_group(n).num_rows for n in range(2)] == [4, 4]
    monkeypatch.setattr(copies, "BLOCK_ROWS", 3)
    run(release={})
    assert file.read_bytes() == whole


def test_what_was_released_can_be_read_again(run: Any, tmp_path: Path) -> None:
    run(release={"columns": "laion"})
    source = {"use": "read.urls", "path": str(tmp_path / "out" / "release"), "preset": "laion"}
    again = pairsift.run({"input": source, "output": str(tmp_path / "again"), "stages": []}, runner="local")
    assert again.ledger()["similarity"].to_pylist() == [i / 10 for i in range(2, 10)]


def test_lists_go_through(tmp_path: Path) -> None:
    boxes = pa.array([[[0.0, 0.1, 0.2, 0.3]], []], pa.list_(pa.list_(pa.float64())))
    table = pa.table({"url": ["http://example.com/1", "http://example.com/2"], "text": ["a", "b"], "face_bboxes": boxes})
    pq.write_table(table, tmp_path / "pool.parquet")
    source = {"use": "read.urls", "path": str(tmp_path / "pool.parquet"), "preset": "datacomp", "extra": ["face_bboxes"]}
    pairsift.run({"input": source, "output": str(tmp_path / "out"), "release": {"columns": "datacomp"}}, runner="local")
    assert pq.read_table(tmp_path / "out" / "release")["face_bboxes"].to_pylist() == boxes.to_pylist()
