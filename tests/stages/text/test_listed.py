import hashlib
from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.listed import Listed


def listed(tmp_path: Path, text: str, **parameters: Any) -> Listed:
    (tmp_path / "list.txt").write_text(text)
    return Listed(path=str(tmp_path / "list.txt"), **parameters)


def test_values_to_the_letter(answers: Any, tmp_path: Path) -> None:
    stage = listed(tmp_path, "# a comment\nhttp://a/1.jpg\n\nhttp://a/2.jpg#x  # why\nHTTP://A/3\n")
    values = ["http://a/1.jpg", "http://a/2.jpg#x", "http://a/2.jpg", "http://a/3", None, "", "# a comment"]
    assert answers(stage, values)["listed"] == [True, True, False, False, False, False, False]


def test_a_domain_stands_for_all_below_it(answers: Any, tmp_path: Path) -> None:
    stage = listed(tmp_path, "*.Example.com\nphotos.example.org\n", match="domain", column="host")
    hosts = [
        "example.com",
        "a.b.example.com",
        "A.Example.COM.",
        "notexample.com",
        "example.org",
        "x.photos.example.org",
        "com",
        None,
    ]
    assert answers(stage, hosts)["listed"] == [True, True, True, False, False, True, False, False]


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_hashes_of_values(answers: Any, tmp_path: Path, name: Any) -> None:
    urls = [f"http://a/ü{n}.jpg" for n in range(2000)]
    hashes = [hashlib.new(name, url.encode()).hexdigest() for url in urls[::2]]
    stage = listed(tmp_path, "\n".join([*hashes[:500], *(h.upper() for h in hashes[500:])]), match=name)
    assert answers(stage, urls)["listed"] == [n % 2 == 0 for n in range(2000)]
    with pytest.raises(ConfigError, match=f"is no {name}"):
        listed(tmp_path, "abc\n", match=name).check()


def test_an_empty_list_holds_nothing(answers: Any, tmp_path: Path) -> None:
    assert answers(listed(tmp_path, "# nothing yet\n"), ["a", None])["listed"] == [False, False]


def test_it_is_known_by_its_content(tmp_path: Path) -> None:
    one = listed(tmp_path, "a\n")
    first = one.identity()
    listed(tmp_path, "b\n")
    assert one.identity() != first
    with pytest.raises(ConfigError, match="cannot be read"):
        Listed(path=str(tmp_path / "none.txt")).check()
