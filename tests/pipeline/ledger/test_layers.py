import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsift.pipeline.ledger.layers import Layer, Ledger, merge, scatter, unit_path
from pairsift.stages import schema

LAYER = Layer.of("letters-0", pa.schema([("letters", pa.int64())]))


def rows(letters: dict[int, int | None]) -> pa.Table:
    """A layer's table: ordinal to letters; a null is a row that failed."""
    failures = ["not_finite" if count is None else None for count in letters.values()]
    columns = [list(letters), list(letters.values()), failures, [None] * len(letters)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LAYER.schema, strict=True)], schema=LAYER.schema)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "work"))


def test_a_layer_says_what_its_files_hold() -> None:
    assert LAYER.schema.names == ["ordinal", "letters", "failure", "failure_detail"]
    assert LAYER.columns == ("letters",)


def test_units_lie_in_folders_of_a_thousand() -> None:
    assert [unit_path(unit) for unit in (0, 999, 1000)] == ["000000/000000000", "000000/000000999", "000001/000001000"]


def test_what_was_committed_is_what_there_is(ledger: Ledger) -> None:
    assert ledger.units(LAYER) == []
    assert ledger.read(LAYER, 0) is None
    for unit in (1000, 2, 10):
        ledger.commit(LAYER, unit, rows({unit: unit}))
    assert ledger.units(LAYER) == [2, 10, 1000]
    assert [Path(file).name for file in ledger.files(LAYER)] == ["000000002.parquet", "000000010.parquet", "000001000.parquet"]
    assert ledger.read(LAYER, 10) == rows({10: 10})
    assert ledger.units(Layer("letters-1", LAYER.schema)) == []


def test_rows_that_are_added_go_into_the_next_part(ledger: Ledger) -> None:
    assert ledger.commit(LAYER, 0, rows({0: 1, 4: 4}))
    first = Path(ledger.files(LAYER)[0])
    before = (first.read_bytes(), first.stat().st_mtime_ns)
    assert ledger.commit(LAYER, 0, rows({1: None, 6: 6}))
    assert ledger.commit(LAYER, 0, rows({5: 5}))
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert ledger.parts(LAYER) == [(0, 0), (0, 1), (0, 2)]
    assert ledger.units(LAYER) == [0]
    assert ledger.read(LAYER, 0) == rows({0: 1, 1: None, 4: 4, 5: 5, 6: 6})
    assert sorted(os.listdir(first.parent)) == ["000000000-1.parquet", "000000000-2.parquet", "000000000.parquet"]


def test_the_first_commit_of_a_row_stands(ledger: Ledger) -> None:
    """A killed run's orphan may still commit while the next run works on the unit."""
    assert ledger.commit(LAYER, 0, rows({0: 1, 1: 1}))
    assert not ledger.commit(LAYER, 0, rows({1: 2, 2: 2}))
    assert not ledger.commit(LAYER, 0, rows({0: 3, 2: 3})), "nothing is left to publish"
    assert ledger.read(LAYER, 0) == rows({0: 1, 1: 1, 2: 2})
    assert ledger.parts(LAYER) == [(0, 0), (0, 1)]


def test_of_commits_at_one_moment_each_row_is_published_once(ledger: Ledger) -> None:
    ready = threading.Barrier(4)

    def commit(writer: int) -> None:
        ready.wait()
        for unit in range(20):
            ledger.commit(LAYER, unit, rows({10 * unit: writer, 10 * unit + 1 + writer: writer}))

    writers = [threading.Thread(target=commit, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for unit in range(20):
        found = ledger.read(LAYER, unit)
        assert found is not None
        assert found["ordinal"].to_pylist() == [10 * unit + n for n in range(5)]
        assert found["letters"].to_pylist()[1:] == [0, 1, 2, 3]


def test_an_intake_may_be_written_again(ledger: Ledger) -> None:
    for letters in (1, 2):
        ledger.write_intake(LAYER, 0, rows({0: letters}))
    assert ledger.read(LAYER, 0) == rows({0: 2})
    assert ledger.parts(LAYER) == [(0, 0)]


def test_the_same_rows_are_the_same_bytes(ledger: Ledger) -> None:
    for unit in (0, 1):
        ledger.commit(LAYER, unit, rows({0: 1, 1: None}))
    first, second = (Path(file).read_bytes() for file in ledger.files(LAYER))
    assert first == second


def test_reading_some_columns_brings_ordinal_and_failure(ledger: Ledger) -> None:
    ledger.commit(LAYER, 0, rows({3: None}))
    found = ledger.read(LAYER, 0, [])
    assert found is not None
    assert found.to_pydict() == {"ordinal": [3], "failure": ["not_finite"]}


def test_a_table_that_is_not_the_layers_is_refused(ledger: Ledger) -> None:
    with pytest.raises(TypeError, match="letters-0 takes"):
        ledger.commit(LAYER, 0, rows({0: 1}).drop_columns(["letters"]))
    assert ledger.units(LAYER) == []


def test_images_of_a_payload_come_back_in_any_order(ledger: Ledger) -> None:
    images = pa.array([b"one", None, b"", b"x" * 1000], pa.large_binary())
    keys = ["000000004", "000000005", "000000006", "000000007"]
    references = ledger.write_payload(LAYER, 1, keys, ["jpg", None, "png", "jpg"], images)
    assert references.schema.names == [schema.IMAGE_PATH.name, schema.IMAGE_OFFSET.name, schema.IMAGE_LENGTH.name]
    assert references["image_length"].to_pylist() == [3, None, 0, 1000]
    assert references["image_offset"].to_pylist()[1] is None
    paths = set(references["image_path"].to_pylist()) - {None}
    assert len(paths) == 1
    with tarfile.open(ledger.work.path(paths.pop())) as tar:
        assert tar.getnames() == ["000000004.jpg", "000000006.png", "000000007.jpg"]
    assert ledger.read_images(references).equals(images)
    assert ledger.read_images(references.take([3, 1, 0])).to_pylist() == [b"x" * 1000, None, b"one"]


def test_a_payload_is_the_same_however_its_images_lie_in_memory(ledger: Ledger) -> None:
    values = [b"zero", None, b"two", b"", b"four", b"five", None, b"seven"]
    whole = pa.array(values, pa.large_binary())
    pieces = pa.chunked_array([whole[:1], whole[1:1], whole[1:2], whole[2:6], pa.nulls(1, pa.large_binary()), whole[7:]])
    keys = [str(row) for row in range(8)]
    written = [ledger.write_payload(LAYER, 0, keys, ["jpg"] * 8, images) for images in (whole, pieces)]
    assert [ledger.read_images(references).to_pylist() for references in written] == [values, values]
    first, second = (ledger.work.read(references["image_path"][0].as_py()) for references in written)
    assert first == second


def test_images_are_no_other_kind_of_bytes(ledger: Ledger) -> None:
    with pytest.raises(TypeError, match="images are large_binary, not binary"):
        ledger.write_payload(LAYER, 0, ["0"], ["jpg"], pa.array([b"one"], pa.binary()))


def test_two_payloads_of_a_unit_do_not_overwrite_each_other(ledger: Ledger) -> None:
    written = [ledger.write_payload(LAYER, 0, ["0"], ["jpg"], pa.array([data], pa.large_binary())) for data in (b"a", b"b")]
    both = pa.concat_tables(written)
    assert ledger.read_images(both).to_pylist() == [b"a", b"b"]


def reference(path: Path, offset: int, length: int) -> pa.Table:
    values: list[Any] = [str(path), offset, length]
    return pa.table({f.name: pa.array([v], f.type) for f, v in zip(schema.IMAGE_REFERENCE, values, strict=False)})


def test_an_image_may_lie_in_any_file_and_must_be_whole(ledger: Ledger, tmp_path: Path) -> None:
    source = tmp_path / "source.tar"
    source.write_bytes(b"0123456789")
    assert ledger.read_images(reference(source, 2, 3)).to_pylist() == [b"234"]
    with pytest.raises(OSError, match="ends before byte 11"):
        ledger.read_images(reference(source, 8, 3))
    with pytest.raises(FileNotFoundError):
        ledger.read_images(reference(tmp_path / "gone.tar", 0, 1))


def test_zeros_in_a_payload_are_what_a_disk_has_lost_and_no_image(ledger: Ledger, tmp_path: Path) -> None:
    images = pa.array([b"an image of some length", b"another one, as long", b"tiny"], pa.large_binary())
    references = ledger.write_payload(LAYER, 0, ["0", "1", "2"], ["jpg"] * 3, images)
    path = Path(ledger.work.path(references["image_path"][0].as_py()))
    offset = references["image_offset"][1].as_py()
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = bytes(20)
    path.write_bytes(data)
    assert ledger.read_images(references.take([0, 2])).to_pylist() == [b"an image of some length", b"tiny"]
    with pytest.raises(OSError, match=f"holds zeros at byte {offset:,}, where an image should be: the file is damaged"):
        ledger.read_images(references)
    source = tmp_path / "source.tar"  # is not ours: what is in it came so
    source.write_bytes(bytes(100))
    assert ledger.read_images(reference(source, 0, 20)).to_pylist() == [bytes(20)]


def test_attempts_that_never_ended_are_counted(ledger: Ledger) -> None:
    assert [ledger.begin_attempt(LAYER, 7) for _ in range(3)] == [0, 1, 2]
    assert ledger.begin_attempt(LAYER, 8) == 0
    ledger.end_attempt(LAYER, 7)
    assert ledger.begin_attempt(LAYER, 7) == 0
    assert ledger.begin_attempt(LAYER, 8) == 1


def test_merged_rows_are_in_ordinal_order() -> None:
    assert merge(None, rows({1: 1})) == rows({1: 1})
    assert merge(rows({1: 1, 4: None}), rows({0: 0, 3: 3})) == rows({0: 0, 1: 1, 3: 3, 4: None})


def test_scattered_values_stand_at_their_rows() -> None:
    column = pa.chunked_array([["a"], ["b", None]])
    assert scatter(np.array([3, 0, 1]), column, 5).to_pylist() == ["b", None, None, "a", None]
    assert scatter(np.array([], np.int64), column.slice(0, 0), 2).to_pylist() == [None, None]
    for whole in (column, pa.chunked_array([["a", "b", None]])):
        assert scatter(np.arange(3), whole, 3).to_pylist() == whole.to_pylist()


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_a_damaged_file_is_told_by_its_name(ledger: Ledger, place: float) -> None:
    """One bit of its data is enough."""
    ledger.commit(LAYER, 3, rows({n: n * 7 for n in range(500)}))
    path = Path(ledger.files(LAYER)[0])
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=rf"{path}: cannot be read: .*; `pairsift check`"):
        ledger.read(LAYER, 3)
