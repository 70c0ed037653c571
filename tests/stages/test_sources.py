import gzip
import os
from pathlib import Path

import fsspec
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.sources import extension, list_sources, open_arrow, open_source

KNOWN = ("csv", "parquet", "txt")


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def _names(folder: Path, paths: str | list[str]) -> list[str]:
    return [os.path.relpath(source.uri, folder) for source in list_sources(paths, KNOWN)]


def test_a_folder_gives_its_files_of_known_kinds_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.csv", "a.parquet", "c.CSV.gz", "_SUCCESS", "_x.csv", ".y.csv", "notes.doc", "sub/d.csv")
    assert _names(tmp_path, str(tmp_path)) == ["a.parquet", "b.csv", "c.CSV.gz"]
    assert _names(tmp_path, f"file://{tmp_path}/") == ["a.parquet", "b.csv", "c.CSV.gz"]


def test_a_glob_gives_what_it_matches_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "b.csv", "a.csv", "sub/c.csv", "_hidden.csv", "notes.doc")
    assert _names(tmp_path, f"{tmp_path}/*.csv") == ["a.csv", "b.csv"]
    assert _names(tmp_path, f"{tmp_path}/**/*.csv") == ["a.csv", "b.csv", "sub/c.csv"]
    assert _names(tmp_path, f"{tmp_path}/_*.csv") == ["_hidden.csv"]
    assert _names(tmp_path, f"{tmp_path}/n*") == ["notes.doc"]


def test_a_list_keeps_its_order_and_gives_nothing_twice(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "b.csv", "c.csv")
    assert _names(tmp_path, [f"{tmp_path}/c.csv", f"{tmp_path}/*.csv", f"{tmp_path}/a.csv"]) == ["c.csv", "a.csv", "b.csv"]


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a.csv")
    monkeypatch.chdir(tmp_path)
    assert [source.uri for source in list_sources("a.csv", KNOWN)] == [str(tmp_path / "a.csv")]


@pytest.mark.parametrize("name", ["x[1].csv", "e::f.csv", "100%.csv", "a#b.csv", "sp ace é.csv"])
def test_a_file_with_an_odd_name_is_taken_by_its_name(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, name, "x1.csv")
    (source,) = list_sources(str(tmp_path / name), KNOWN)
    with open_source(source.uri, decompress=True) as file:
        assert file.read() == name.encode()
    with open_arrow(source.uri) as file:
        assert file.read() == name.encode()


def test_symbolic_links_count_as_what_they_point_to(tmp_path: Path) -> None:
    _touch(tmp_path, "real/a.csv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "real" / "a.csv")
    assert _names(tmp_path, str(tmp_path / "in")) == ["in/link.csv"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nothing", "no such file or folder"),
        ("*.zip", "no file has such a name"),
        ("empty", "no file of a known kind"),
        ("", "no file of a known kind"),
    ],
)
def test_nothing_found_is_said_in_one_line(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=says) as error:
        list_sources(f"{tmp_path}/{path}", KNOWN)
    assert str(error.value).startswith("nothing matches")
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_and_an_empty_path() -> None:
    with pytest.raises(ConfigError, match="Protocol not known: nope"):
        list_sources("nope://bucket/a.csv", KNOWN)
    with pytest.raises(ConfigError, match="empty"):
        list_sources("", KNOWN)


def test_identity_changes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("one")
    os.utime(path, (1, 1))
    (before,) = list_sources(str(path), KNOWN)
    assert before.size == 3
    assert before.version
    assert list_sources(str(tmp_path), KNOWN) == [before]
    os.utime(path, (2, 2))
    assert list_sources(str(path), KNOWN) != [before]


def test_other_file_systems() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/pairsift-sources/b.csv", b"b")
    memory.pipe("/pairsift-sources/a.csv.gz", gzip.compress(b"a"))
    sources = list_sources("memory://pairsift-sources", KNOWN)
    assert [source.uri for source in sources] == ["memory:///pairsift-sources/a.csv.gz", "memory:///pairsift-sources/b.csv"]
    assert [list_sources(source.uri, KNOWN) for source in sources] == [[source] for source in sources]
    assert list_sources("memory://pairsift-sources/*.csv", KNOWN) == sources[1:]
    with open_source(sources[0].uri, decompress=True) as file:
        assert file.read() == b"a"
    memory.rm("/pairsift-sources", recursive=True)


def test_opening_can_decompress_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text\n"))
    with open_source(str(path), decompress=True) as file:
        assert file.readline(10) == b"text\n"
    with open_source(str(path), decompress=False) as file:
        assert file.read() == path.read_bytes()


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("/a/b.CSV.gz", "csv"),
        ("s3://bucket/a.parquet", "parquet"),
        ("https://host/a.tsv?version=1.2", "tsv"),
        ("/a.b/c", ""),
        ("/a/x.gz", ""),
        ("/a/b.jsonl.bz2", "jsonl"),
    ],
)
def test_extension(uri: str, found: str) -> None:
    assert extension(uri) == found
