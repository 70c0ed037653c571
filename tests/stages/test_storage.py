import errno
import os
import pickle
import threading
import uuid
from pathlib import Path

import pytest

from pairsift.stages.storage import Folder, absolute, is_remote


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "a" / "b") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/b")


def test_what_is_written_is_read(folder: Folder) -> None:
    folder.write("x/y.bin", b"one")
    assert folder.read("x/y.bin") == b"one"
    folder.write("x/y.bin", [b"t", memoryview(b"wo")])
    assert folder.read("x/y.bin") == b"two"
    assert folder.exists("x/y.bin")
    assert folder.exists()
    assert (folder / "x").read("y.bin") == b"two"


def test_what_is_not_there(folder: Folder) -> None:
    assert not folder.exists("none")
    assert folder.names() == folder.names("none") == []
    folder.remove("none")
    with pytest.raises(FileNotFoundError):
        folder.read("none")


def test_names_are_sorted_and_direct(folder: Folder) -> None:
    for name in ("c", "a", "b/deeper", ".hidden"):
        folder.write(name, b"x")
    assert folder.names() == ["a", "b", "c"]
    assert folder.names("b") == ["deeper"]
    folder.remove("a")
    assert folder.names() == ["b", "c"]


def test_names_see_what_another_process_wrote(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert folder.names() == []
    (tmp_path / "new").write_bytes(b"")
    assert folder.names() == ["new"]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("x", b"old")

    def interrupted() -> None:
        with folder.create("x") as file:
            file.write(b"half")
            file.flush()
            assert folder.read("x") == b"old"
            assert folder.names() == ["x"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert folder.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_of_two_writers_one_wins_wholly(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    bodies = [bytes([n]) * 300_000 for n in range(4)]
    writers = [threading.Thread(target=folder.write, args=("x", body)) for body in bodies]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert folder.read("x") in bodies
    assert os.listdir(tmp_path) == ["x"]


def test_a_new_file_is_never_written_over(folder: Folder) -> None:
    assert folder.create_exclusive("x/y", b"one")
    assert not folder.create_exclusive("x/y", b"two")
    assert folder.read("x/y") == b"one"
    assert folder.names("x") == ["y"]
    folder.remove("x/y")
    assert folder.create_exclusive("x/y", b"three")


def test_of_two_writers_of_a_new_file_one_is_told_so(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    wrote: list[bytes] = []
    ready = threading.Barrier(4)

    def write(body: bytes) -> None:
        ready.wait()
        if folder.create_exclusive("x", body):
            wrote.append(body)

    writers = [threading.Thread(target=write, args=(bytes([n]) * 300_000,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert wrote == [folder.read("x")]
    assert os.listdir(tmp_path) == ["x"]


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = Folder(str(tmp_path))
    assert [folder.create_exclusive("x", body) for body in (b"1", b"2")] == [True, False]
    assert (folder.read("x"), os.listdir(tmp_path)) == (b"1", ["x"])


def test_a_folder_travels(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("x", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert (copy.uri, copy.read("x")) == (folder.uri, b"1")


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("x/../y") == absolute(f"file://{tmp_path}/y") == str(tmp_path / "y")
    assert absolute("s3://bucket/x/../y") == "s3://bucket/x/../y"
    assert is_remote("s3://bucket")
    assert not is_remote("file:///x")
    assert Folder("s3://bucket/x/").path("y") == "s3://bucket/x/y"
    assert Folder("/").uri == "/"
    assert Folder("x").local
    assert not Folder("memory://x").local


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.sweep("not there")
    folder.write("shards/a.tar", b"whole")
    for name in (f".a.tar.{'0' * 32}.tmp", ".hidden", "b.tmp"):
        (tmp_path / "shards" / name).write_bytes(b"x")
    folder.sweep("shards")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [".hidden", "a.tar", "b.tmp"]
