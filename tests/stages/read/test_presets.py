"""Well-known lists in the shape in which they are published."""

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats.presets import PRESETS, Name
from pairsift.stages.read.urls import Urls


def rows_of(path: Path, **parameters: Any) -> list[dict[str, Any]]:
    return reading.rows(Urls(path=str(path), **parameters))


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str | None, str | None]]:
    assert not any(row["failure"] for row in rows)
    return [(row["url"], row["caption"]) for row in rows]


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


COCO = {
    "images": [
        {"id": 1, "coco_url": "http://c/1.jpg", "flickr_url": "http://f/1", "height": 10, "width": 20, "file_name": "1.jpg"},
        {"id": 2, "coco_url": "http://c/2.jpg", "flickr_url": "http://f/2", "height": 30, "width": 40, "file_name": "2.jpg"},
    ],
    "annotations": [{"image_id": 1 + n % 2, "id": n, "caption": f"caption {n}"} for n in range(5)],
}


def test_every_preset_is_tested() -> None:
    assert (
        set(PRESETS)
        == set(get_args(Name))
        == {"cc3m", "cc12m", "coco", "coyo", "datacomp", "flickr30k", "laion", "redcaps", "sbu", "wit"}
    )


def test_conceptual_captions(tmp_path: Path) -> None:
    cc3m = text(tmp_path / "Train_GCC-training.tsv", 'a "dog"\thttp://a\na cat\thttp://b\n')
    assert pairs(rows_of(cc3m, preset="cc3m")) == [("http://a", 'a "dog"'), ("http://b", "a cat")]
    cc12m = text(tmp_path / "cc12m.tsv", "http://a\ta dog\nhttp://b\ta cat\n")
    assert pairs(rows_of(cc12m, preset="cc12m")) == [("http://a", "a dog"), ("http://b", "a cat")]
    headed = text(tmp_path / "headed.tsv", "url\tcaption\nhttp://a\ta dog\n")
    assert pairs(rows_of(headed, preset="cc12m")) == [("http://a", "a dog")]


def test_coco_a_row_for_each_caption(tmp_path: Path) -> None:
    rows = rows_of(text(tmp_path / "captions_val2017.json", json.dumps(COCO)), preset="coco")
    assert pairs(rows) == [(f"http://c/{image}.jpg", f"caption {n}") for image, n in [(1, 0), (1, 2), (1, 4), (2, 1), (2, 3)]]
    assert rows[0]["file_name"] == "1.jpg"
    assert rows[0]["source_width"] == 20


def test_coco_with_all_captions_in_a_row(tmp_path: Path) -> None:
    path = text(tmp_path / "captions_val2017.json", json.dumps(COCO))
    rows = rows_of(path, preset="coco", captions="list")
    assert pairs(rows) == [("http://c/1.jpg", "caption 0"), ("http://c/2.jpg", "caption 1")]
    assert rows[0]["captions"] == ["caption 0", "caption 2", "caption 4"]
    config = {
        "input": {"use": "read.urls", "path": str(path), "preset": "coco", "captions": "list"},
        "output": str(tmp_path / "o"),
    }
    found = pairsift.run(config, runner="local").sql("SELECT captions FROM ledger ORDER BY ordinal").fetchall()
    assert found == [(row["captions"],) for row in rows]


def test_redcaps(tmp_path: Path) -> None:
    content = {
        "info": {},
        "annotations": [{"image_id": "x", "url": "http://a", "raw_caption": "Itap", "caption": "itap", "score": 5}],
    }
    (row,) = rows_of(text(tmp_path / "itap_2017.json", json.dumps(content)), preset="redcaps")
    assert (row["url"], row["caption"], row["raw_caption"], row["source_score"]) == ("http://a", "itap", "Itap", 5)


def test_sbu(tmp_path: Path) -> None:
    content = {"image_urls": ["http://a", "http://b"], "captions": ["one", "two"], "user_ids": ["u", "v"]}
    assert pairs(rows_of(text(tmp_path / "sbu-captions-all.json", json.dumps(content)), preset="sbu")) == [
        ("http://a", "one"),
        ("http://b", "two"),
    ]


def test_wit(tmp_path: Path) -> None:
    names = [
        "language",
        "page_url",
        "image_url",
        "caption_reference_description",
        "caption_alt_text_description",
        "original_height",
    ]
    (row,) = rows_of(text(tmp_path / "wit.tsv", "\t".join(names) + "\nen\thttp://p\thttp://a\tA dog\t\t300\n"), preset="wit")
    assert (row["url"], row["caption"], row["language"], row["source_original_height"]) == ("http://a", "A dog", "en", "300")


def test_laion(tmp_path: Path) -> None:
    old = parquet(
        tmp_path / "old.parquet", SAMPLE_ID=[1], URL=["http://a"], TEXT=["t"], HEIGHT=[2], WIDTH=[3], LICENSE=["?"],
        NSFW=["UNLIKELY"], similarity=[0.33],
    )  # fmt: skip
    (row,) = rows_of(old, preset="laion")
    assert (row["url"], row["caption"], row["similarity"], row["nsfw"], row["source_WIDTH"]) == (
        "http://a",
        "t",
        0.33,
        "UNLIKELY",
        3,
    )
    new = parquet(
        tmp_path / "new.parquet", URL=["http://a"], TEXT=["t"], LANGUAGE=["de"], prob_unsafe=[0.1], pwatermark=[0.2], hash=[5]
    )
    (row,) = rows_of(new, preset="laion")
    assert (row["language"], row["punsafe"], row["pwatermark"], row["hash"]) == ("de", 0.1, 0.2, 5)
    (row,) = rows_of(new, preset="laion", columns={"uid": "TEXT", "caption": "LANGUAGE"}, extra=[])
    assert (row["uid"], row["caption"]) == ("t", "de")


def test_coyo_and_datacomp(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", url=["http://a"], text=["t"], uid=["0" * 32], clip_l14_similarity_score=[0.3], width=[4]
    )
    (row,) = rows_of(path, preset="datacomp")
    assert (row["caption"], row["uid"], row["clip_l14_similarity_score"], row["source_width"]) == ("t", "0" * 32, 0.3, 4)
    (row,) = rows_of(path, preset="coyo")
    assert (row["caption"], row["source_uid"]) == ("t", "0" * 32)


LISTS: dict[Name, tuple[str, str]] = {
    "cc3m": ("tsv", "a dog\thttp://c/1.jpg\n"),
    "cc12m": ("tsv", "http://c/1.jpg\ta dog\n"),
    "coco": ("json", json.dumps({"images": COCO["images"], "annotations": [{"image_id": 1, "caption": "a dog"}]})),
    "redcaps": ("json", json.dumps({"annotations": [{"url": "http://c/1.jpg", "caption": "a dog"}]})),
    "sbu": ("json", json.dumps({"image_urls": ["http://c/1.jpg"], "captions": ["a dog"]})),
    "wit": ("tsv", "image_url\tcaption_reference_description\nhttp://c/1.jpg\ta dog\n"),
}


@pytest.mark.parametrize("preset", LISTS)
def test_each_list_of_text_may_be_compressed(tmp_path: Path, preset: Name) -> None:
    """WIT is published so: wit_v1.train.all-00000-of-00010.tsv.gz."""
    kind, content = LISTS[preset]
    path = tmp_path / f"list.{kind}.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert pairs(rows_of(path, preset=preset))[0] == ("http://c/1.jpg", "a dog")


def test_a_preset_for_another_file_says_so(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", link=["http://a"])
    with pytest.raises(ConfigError, match=r"no column 'URL' for url; its columns are link"):
        rows_of(path, preset="laion")


# Several captions


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_captions_as_rows_or_as_a_list(tmp_path: Path, kind: str) -> None:
    found: list[dict[str, Any]] = [
        {"url": "http://a", "caption": ["one", "two", None]},
        {"url": "http://b", "caption": []},
        {"url": "http://c", "caption": None},
        {"url": "http://d", "caption": ["x"]},
    ]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    else:
        text(path, json.dumps(found) if kind == "json" else "".join(json.dumps(row) + "\n" for row in found))
    assert pairs(rows_of(path)) == [
        ("http://a", "one"), ("http://a", "two"), ("http://a", None), ("http://b", None), ("http://c", None), ("http://d", "x"),
    ]  # fmt: skip
    rows = rows_of(path, captions="list")
    assert pairs(rows) == [("http://a", "one"), ("http://b", None), ("http://c", None), ("http://d", "x")]
    assert [row["captions"] for row in rows] == [["one", "two", None], [], None, ["x"]]


def test_a_list_of_one_where_there_is_but_one(tmp_path: Path) -> None:
    rows = rows_of(text(tmp_path / "a.csv", "url,caption\nhttp://a,one\n"), captions="list")
    assert [row["captions"] for row in rows] == [["one"]]
    rows = rows_of(text(tmp_path / "a.txt", "http://a\n"), captions="list")
    assert [row["captions"] for row in rows] == [None]


def test_captions_that_are_none(tmp_path: Path) -> None:
    path = text(tmp_path / "a.jsonl", '{"url": "u", "caption": ["a", {"b": 1}]}\n{"url": "u", "caption": {"b": 1}}\n')
    assert [row["failure"] for row in rows_of(path)] == [None, "unreadable_row", "unreadable_row"]
    assert [row["failure"] for row in rows_of(path, captions="list")] == ["unreadable_row", "unreadable_row"]


# Metadata alone


def test_a_job_on_metadata_alone_touches_no_image(tmp_path: Path, web: Any) -> None:
    columns = {
        "URL": [web.url("coffee.jpg")] * 4,
        "TEXT": [*"abcd"],
        "similarity": [0.1, 0.3, None, 0.4],
        "punsafe": [0.0, 0.9, 0.0, 0.1],
    }
    config = {
        "input": {"use": "read.urls", "path": str(parquet(tmp_path / "a.parquet", **columns)), "preset": "laion"},
        "output": str(tmp_path / "out"),
        "stages": [{"use": "filter.where", "keep": "similarity >= 0.28 AND punsafe < 0.5"}],
    }
    results = pairsift.run(config, runner="local")
    assert results.fates()["status"].to_pylist() == ["rejected", "rejected", "rejected", "success"]
    kept = results.sql("SELECT ledger.* FROM ledger JOIN fates USING (ordinal) WHERE status = 'success'")
    kept.write_parquet(str(tmp_path / "kept.parquet"))
    (row,) = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert (row["url"], row["caption"], row["similarity"]) == (web.url("coffee.jpg"), "d", 0.4)
    assert not (tmp_path / "out" / "shards").exists()
    assert web.requests == []
