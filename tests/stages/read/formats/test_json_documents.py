import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats import json_documents
from pairsift.stages.read.formats.json_documents import json_records


def records(path: Path, content: str | bytes) -> list[Any]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(json_records(str(path)))


ROWS = [{"url": f"http://{n}", "caption": 'größer, "x"] } ] ' * n} for n in range(40)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_list_in_chunks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_documents, "_CHUNK", chunk)
    assert records(tmp_path / "a.json", " \n\ufeff"[:2] + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n") == ROWS


def test_compressed_and_with_a_mark(tmp_path: Path) -> None:
    data = json.dumps(ROWS).encode()
    assert records(tmp_path / "a.json.gz", gzip.compress(data)) == ROWS
    assert records(tmp_path / "a.json.bz2", bz2.compress(data)) == ROWS
    assert records(tmp_path / "b.json", b"\xef\xbb\xbf" + data) == ROWS
    found = records(tmp_path / "c.json.gz", gzip.compress(json.dumps(ROWS * 1000).encode())[:-30])
    assert len(found) > 1000
    assert found[:40] == ROWS
    assert "c.json.gz breaks off" in found[-1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", []),
        (" \n", []),
        ("[]", []),
        ("{}", ConfigError),
        ('{"a": {"annotations": []}, "b": [], "c": [1]}', ConfigError),
        ('{"info": {}, "annotations": [{"url": "u"}, {"url": "v"}]}', [{"url": "u"}, {"url": "v"}]),
        ('{"data": [{"url": "u"}], "version": 1}', [{"url": "u"}]),
        ('{"us": ["u", "v"], "cs": ["a", null], "n": 3}', [{"us": "u", "cs": "a"}, {"us": "v", "cs": None}]),
        ('{"url": "u", "caption": "c"}', [{"url": "u", "caption": "c"}]),
        ('{"url": "u"}\n\n{"url": "v"}\n', [{"url": "u"}, {"url": "v"}]),
        ('{"url": "u"}\n{"url": \n{"url": "v"}', [{"url": "u"}, "line 2: not JSON", {"url": "v"}]),
        ('[{"url": "u"}, 7, null]', [{"url": "u"}, "item 2 is no object", "item 3 is no object"]),
        ('[{"url": "u"}, {"url": ', [{"url": "u"}, "no JSON after object 1"]),
        ('[{"url": "u"} oops', [{"url": "u"}, "no JSON after object 1"]),
        ("[1", ["no JSON after object 0"]),
        ("<html>", ["is no JSON"]),
        ("17", ["is no list of objects"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('{"a":' * 100_000, ["nested too deeply"]),
    ],
)  # fmt: skip
def test_shapes(tmp_path: Path, content: str, expected: Any) -> None:
    if expected is ConfigError:
        with pytest.raises(ConfigError, match="which of"):
            records(tmp_path / "a.json", content)
        return
    found = records(tmp_path / "a.json", content)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert other in one if isinstance(other, str) else one == other


def test_coco(tmp_path: Path) -> None:
    content = {
        "info": {}, "licenses": [{"id": 1}],
        "images": [{"id": 5, "coco_url": "http://5"}, {"id": 3, "coco_url": "http://3"}, "x"],
        "annotations": [
            {"image_id": 3, "id": 1, "caption": "a"}, {"image_id": 5, "id": 2, "caption": "b"}, {"image_id": 3, "caption": "c"},
            {"image_id": 9, "caption": "d"},
        ],
    }  # fmt: skip
    assert records(tmp_path / "captions.json", json.dumps(content)) == [
        {"id": 5, "coco_url": "http://5", "caption": ["b"]},
        {"id": 3, "coco_url": "http://3", "caption": ["a", "c"]},
        f"{tmp_path}/captions.json: image 3 is no object",
        {"id": "9", "caption": ["d"]},
    ]


def test_too_large_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_documents, "MAX_DOCUMENT", 100)
    with pytest.raises(ConfigError, match=r"input\.format: jsonl"):
        records(tmp_path / "a.json", '{"url": "' + "u" * 200 + '"}')
    monkeypatch.setattr(json_documents, "MAX_ITEM", 100)
    monkeypatch.setattr(json_documents, "_CHUNK", 10)
    assert "no JSON after object 0" in records(tmp_path / "b.json", json.dumps([{"url": "u" * 500}]))[0]
