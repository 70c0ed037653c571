import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from pairsift.stages.base import ConfigError
from pairsift.stages.download import Download
from pairsift.stages.download.blocklists import BlocklistFiles, Blocklists
from pairsift.stages.download.errors import FetchError


def lists(folder: Path, **texts: str) -> Blocklists:
    return Blocklists(files(folder, **texts))


def files(folder: Path, **texts: str) -> BlocklistFiles:
    for kind, text in texts.items():
        (folder / kind).write_text(text, encoding="utf-8")
    return BlocklistFiles.model_validate({kind: str(folder / kind) for kind in texts})


def verdict(found: Blocklists, url: str, text: str | None = None) -> str | None:
    try:
        found.check_url(URL(url), text)
    except FetchError as error:
        return error.failure.value
    return None


def test_a_domain_blocks_all_below_it(tmp_path: Path) -> None:
    found = lists(tmp_path, domains="# ads\nEXAMPLE.com\n*.b.example   # all of it\n\n.müller.de\n127.0.0.1\n")
    blocked = ["http://example.com/", "https://a.b.Example.com:8080/x", "http://b.example/", "http://x.xn--mller-kva.de./"]
    assert [verdict(found, url) for url in [*blocked, "http://127.0.0.1/"]] == ["blocked_domain"] * 5
    fine = ["http://notexample.com/", "http://example.com.de/", "http://example/", "http://com/", "http://27.0.0.1/"]
    assert [verdict(found, url) for url in fine] == [None] * 5


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", None])
def test_urls_are_blocked_by_any_hash_or_as_they_are(tmp_path: Path, name: str | None) -> None:
    url = "http://a.example/b c.jpg#part"
    found = lists(tmp_path, urls=hashlib.new(name, url.encode()).hexdigest().upper() if name else f"{url} # bad\n")
    assert verdict(found, "http://a.example/b%20c.jpg#part", url) == "blocked_url"
    assert verdict(found, "http://a.example/other.jpg", "http://a.example/other.jpg") is None


@pytest.mark.parametrize(
    "entry", ["http://a.example/b%20c.jpg", "\ufeffHTTP://A.example:80/b c.jpg", "http://u:p@a.example/b c.jpg#x"]
)
def test_another_spelling_of_the_same_request_is_no_way_round(tmp_path: Path, entry: str) -> None:
    found = lists(tmp_path, urls=entry)
    for text in ("http://a.example/b c.jpg", "http://A.example/b%20c.jpg#1", "http://u@a.example:80/b c.jpg"):
        assert verdict(found, text, text) == "blocked_url"
    for text in ("http://a.example/b%20c.jpg?1", "http://a.example:8080/b%20c.jpg", "https://a.example/b%20c.jpg"):
        assert verdict(found, text, text) is None


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_contents_are_blocked_by_their_hash(tmp_path: Path, name: str) -> None:
    bodies = [f"body {i}".encode() for i in range(300)]  # among them hashes that end in a zero byte
    found = lists(tmp_path, **{name: "\n".join(hashlib.new(name, body).hexdigest() for body in bodies)})
    assert found.of_content
    for body in bodies:
        with pytest.raises(FetchError, match=name):
            found.check_content(body)
    found.check_content(b"another")
    assert not lists(tmp_path, domains="a.example").of_content


@pytest.mark.parametrize(
    ("kind", "text"),
    [("md5", "xyz"), ("sha256", "d41d8cd98f00b204e9800998ecf8427e"), ("urls", "abc"), ("domains", "two words")],
)
def test_a_line_that_is_none_is_told(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(ConfigError, match="blocklists: "):
        lists(tmp_path, **{kind: text})


def test_a_missing_file_is_told_before_anything_runs(tmp_path: Path) -> None:
    stage = Download.model_validate({"contact": "a@b.example", "blocklists": {"md5": str(tmp_path / "none")}})
    with pytest.raises(ConfigError, match="none cannot be read"):
        stage.check()


def test_the_identity_is_that_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    one = files(tmp_path, domains="a.example\nb.example\n", md5="")
    same = files(tmp_path / "elsewhere", domains="# the same\na.example\nb.example", md5="")
    assert one.identity() == same.identity() != ""
    assert BlocklistFiles().identity() == ""
    before = one.identity()
    (tmp_path / "domains").write_text("a.example\n")
    assert one.identity() != before
    assert Download(blocklists=one).identity() == one.identity()
    assert "blocklists" not in Download(blocklists=one).science()


def test_compressed_lists_and_remote_ones(tmp_path: Path) -> None:
    import fsspec

    (tmp_path / "domains.gz").write_bytes(gzip.compress(b"a.example\n"))
    with fsspec.open("memory://lists/urls.txt", "w") as file:
        file.write("http://b.example/x\n")
    found = Blocklists(BlocklistFiles(domains=str(tmp_path / "domains.gz"), urls="memory://lists/urls.txt"))
    assert verdict(found, "http://a.example/") == "blocked_domain"
    assert verdict(found, "http://b.example/x") == "blocked_url"


def test_a_blocked_body_is_a_fate(server: Any, download: Any, tmp_path: Path) -> None:
    (tmp_path / "sha1").write_text(hashlib.sha1(server.photo).hexdigest())
    table = download([server.url("/good"), server.url("/alpha")], blocklists={"sha1": str(tmp_path / "sha1")})
    assert table.column("failure").to_pylist() == ["blocked_content", None]
    assert server.requests["/good"] == 1
