"""A row that is wrong gets a fate, never a crash, and never takes a neighbour along."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift

STAGES = [
    {"use": "filter.where", "keep": "caption IS NULL OR length(caption) >= 3", "name": "caption too short"},
    {"use": "dedup.exact", "by": ["url", "caption"]},
    {
        "use": "download",
        "image_size": 32,
        "allow_private_addresses": True,
        "contact": "https://crawl.example/",
        "retries": 0,
        "timeout": 20,
    },
    {"use": "filter.where", "keep": "least(original_width, original_height) >= 16", "name": "image too small"},
]
GOOD = ("success", None)


@pytest.fixture
def sift(tmp_path: Path, tiny_clip: Callable[[int], str]) -> Callable[..., Any]:
    def run(path: Path, **parameters: Any) -> Any:
        source = {"use": "read.urls", "path": str(path), "unit_rows": 7, **parameters}
        stages = [*STAGES, {"use": "embed", "model": tiny_clip(0)}, {"use": "score.clip_similarity"}]
        config = {"input": source, "output": str(tmp_path / "out"), "stages": stages, "shards": {"rows": 5}}
        return pairsift.run(config, runner="local")

    return run


@pytest.fixture
def site(web: Any, photos: dict[str, bytes]) -> Any:
    web.files |= {
        "cut.jpg": photos["coffee.jpg"][: len(photos["coffee.jpg"]) // 3],
        "page.html": b"<!DOCTYPE html><html><body>not an image</body></html>",
        "empty.jpg": b"",
        "pixel.png": cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes(),
        "caf%C3%A9/my%20photo.jpg": photos["rocket.jpg"],
    }
    return web


def rows_of(site: Any) -> list[tuple[str | None, str | None, tuple[str, str | None]]]:
    """(url, caption, (status, code or rule)) that any format can hold; a good row stands after each bad one."""
    good = site.url("coffee.jpg")
    deep = "\u202eright to left\u200b \U0001f469\u200d\U0001f680 e\u0301 \U0001f1e9\U0001f1ea \ufeff \uffff"
    bad: list[tuple[str | None, str | None, tuple[str, str | None]]] = [
        ("", "an empty URL", ("failed_to_download", "invalid_url")),
        ("   ", "a blank URL", ("failed_to_download", "invalid_url")),
        ("not a url", "words", ("failed_to_download", "invalid_url")),
        ("http://", "no host", ("failed_to_download", "invalid_url")),
        ("http://[::1/x.jpg", "half an address", ("failed_to_download", "invalid_url")),
        ("http://a..b/x.jpg", "an empty label", ("failed_to_download", "dns_error")),
        ("javascript:alert(1)", "a script", ("failed_to_download", "unsupported_scheme")),
        ("data:image/png;base64,iVBORw0KGgo=", "an image in the URL", ("failed_to_download", "unsupported_scheme")),
        ("file:///etc/passwd", "a file", ("failed_to_download", "unsupported_scheme")),
        ("ftp://127.0.0.1/x.jpg", "another protocol", ("failed_to_download", "unsupported_scheme")),
        (site.url("x" * 100_000), "a huge URL", ("failed_to_download", "http_4xx")),
        (site.url("missing.jpg"), "nothing there", ("failed_to_download", "http_404")),
        (site.url("empty.jpg"), "an empty body", ("failed_to_download", "empty_body")),
        (site.url("cut.jpg"), "cut short", ("failed_to_resize", "truncated_image")),
        (site.url("page.html"), "a page", ("failed_to_resize", "html_page")),
        (site.url("pixel.png"), "one pixel", ("rejected", "image too small")),
        (good, "ab", ("rejected", "caption too short")),
        (good, "", ("rejected", "caption too short")),
        (good, "good row 0", ("duplicate", "duplicate url, caption")),
        (site.url("café/my photo.jpg"), "spaces and letters beyond ASCII in the URL", GOOD),
        (f"  {site.url('moon.jpg')}\t", "blanks about the URL", GOOD),
        (site.url("rocket.jpg") + "#part", "a fragment", GOOD),
        (good, "long " * 400_000, GOOD),
        (good, "x" * 2_000_000, GOOD),
        (good, "a line\nanother\r\nand\ta tab", GOOD),
        (good, deep, GOOD),
        (good, '<b onclick="x()">HTML</b> &amp; \'quotes\' "double" \\ %s {0} ${HOME} -- ; DROP TABLE', GOOD),
    ]
    rows = []
    for i, row in enumerate([(good, "the first", GOOD), *bad]):
        rows += [row, (good, f"good row {i}", GOOD)] if i else [(good, "good row 0", GOOD)]
    return rows


def assert_fates(results: Any, expected: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Each row's (status, code or rule) is as expected, and the numbers add up everywhere."""
    fates: list[dict[str, Any]] = results.fates().to_pylist()
    found = [(fate["status"], fate["code"] or fate["rejected_by"]) for fate in fates]
    assert [(i, f, e) for i, (f, e) in enumerate(zip(found, expected, strict=True)) if f != e] == []
    assert {s: n for s, n in results.report["counts"].items() if n} == Counter(status for status, _ in expected)
    assert results.report["rows"] == sum(results.report["counts"].values()) == len(expected)
    output = Path(results.config.output)
    shards = [row for path in sorted((output / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["key"] for row in shards] == [fate["key"] for fate in fates if fate["status"] == "success"]
    assert all(row["clip_similarity"] is not None for row in shards if row["caption"])
    return shards


def test_parquet(tmp_path: Path, site: Any, sift: Callable[..., Any]) -> None:
    rows = rows_of(site)
    rows += [
        (None, "no URL", ("failed_to_download", "invalid_url")),
        (site.url("coffee.jpg"), "a NUL \0 within", GOOD),
        (site.url("coffee.jpg"), None, GOOD),
        (site.url("coffee.jpg"), None, GOOD),  # a null equals nothing: nobody's duplicate
        (site.url("coffee.jpg") + "?\0", "a NUL in the URL", GOOD),
    ]
    pq.write_table(pa.table({"url": [r[0] for r in rows], "caption": [r[1] for r in rows]}), tmp_path / "rows.parquet")
    shards = assert_fates(sift(tmp_path / "rows.parquet"), [fate for _, _, fate in rows])
    written = {row["caption"] for row in shards}
    assert {caption for _, caption, fate in rows if fate == GOOD} == written
    assert "café/my photo.jpg" in next(row["url"] for row in shards if "spaces" in (row["caption"] or ""))


def test_parquet_with_bytes_that_are_no_text(tmp_path: Path, site: Any, sift: Callable[..., Any]) -> None:
    """Older writers leave the mark of text off."""
    good = site.url("coffee.jpg").encode()
    rows = [
        (good, b"good", GOOD),
        (good, b"\xff\xfe not UTF-8", ("failed_to_read", "invalid_text")),
        (good, b"good, too", GOOD),
        (b"http://\xff/x.jpg", b"a URL that is not UTF-8", ("failed_to_read", "invalid_text")),
        (good, b"an encoded surrogate \xed\xa0\x80", ("failed_to_read", "invalid_text")),
        (good, "größer".encode(), GOOD),
    ]
    table = pa.table({"url": pa.array([r[0] for r in rows]), "caption": pa.array([r[1] for r in rows])})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert_fates(sift(tmp_path / "rows.parquet"), [fate for _, _, fate in rows])


def test_csv(tmp_path: Path, site: Any, sift: Callable[..., Any]) -> None:
    rows = rows_of(site)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("url", "caption"), *((url, caption) for url, caption, _ in rows)])
    good = site.url("coffee.jpg").encode()
    more: list[tuple[bytes, tuple[str, str | None]]] = [
        (good, ("failed_to_read", "unreadable_row")),
        (good + b",a caption, and a comma too many", ("failed_to_read", "unreadable_row")),
        (good + b",after rows with too few and too many fields", GOOD),
        (good + b",\xff\xfe not UTF-8", ("failed_to_read", "invalid_text")),
        (good + b",after a row that is not UTF-8", GOOD),
        (good + b",a NUL \0 within", ("failed_to_read", "unreadable_row")),
        (good + b',"a quote that is never closed', ("failed_to_read", "unreadable_row")),
        (good + b",after a quote that is never closed", GOOD),
    ]
    (tmp_path / "rows.csv").write_bytes(text.getvalue().encode() + b"\n".join(line for line, _ in more) + b"\n")
    shards = assert_fates(sift(tmp_path / "rows.csv"), [*(fate for _, _, fate in rows), *(fate for _, fate in more)])
    written = {row["caption"] for row in shards}
    assert {caption for _, caption, fate in rows if fate == GOOD} <= written
    assert "after a quote that is never closed" in written


def test_json_lines(tmp_path: Path, site: Any, sift: Callable[..., Any]) -> None:
    rows = rows_of(site)
    good = json.dumps(site.url("coffee.jpg"))
    more: list[tuple[str, tuple[str, str | None]]] = [
        (f'{{"url": {good}, "caption": "half a surrogate \\ud800"}}', ("failed_to_read", "invalid_text")),
        (f'{{"url": {good}, "caption": "a whole pair \\ud83d\\ude00"}}', GOOD),
        (f'{{"url": {good}, "caption": "a NUL \\u0000 within"}}', GOOD),
        (f'{{"url": null, "caption": "no URL, before {len(rows)}"}}', ("failed_to_download", "invalid_url")),
        ('{"caption": "no URL at all"}', ("failed_to_download", "invalid_url")),
        (f'{{"url": {good}}}', GOOD),
        (f'{{"url": {good}, "caption": {{"a": "map"}}}}', ("failed_to_read", "unreadable_row")),
        (f'{{"url": {good}, "caption": "cut off', ("failed_to_read", "unreadable_row")),
        ("[1, 2]", ("failed_to_read", "unreadable_row")),
        ("[" * 100_000, ("failed_to_read", "unreadable_row")),
        (f'{{"url": {good}, "caption": 1984}}', GOOD),
        (f'{{"url": {good}, "caption": "the last", "more": {{"deep": 1}}}}', GOOD),
    ]
    lines = [json.dumps({"url": url, "caption": caption}) for url, caption, _ in rows] + [line for line, _ in more]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    shards = assert_fates(sift(tmp_path / "rows.jsonl"), [*(fate for _, _, fate in rows), *(fate for _, fate in more)])
    assert {"a whole pair \U0001f600", "a NUL \0 within", "1984", "the last"} <= {row["caption"] for row in shards}


def test_only_wrong_rows(tmp_path: Path, sift: Callable[..., Any]) -> None:
    """A unit, and an output, without a single good row."""
    lines = ["url,caption", *("one field" for _ in range(8)), *(f"gopher://x/{i},caption" for i in range(8))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    expected = [("failed_to_read", "unreadable_row")] * 8 + [("failed_to_download", "unsupported_scheme")] * 8
    assert assert_fates(sift(tmp_path / "rows.csv"), expected) == []


def test_columns_with_odd_names(tmp_path: Path, site: Any, sift: Callable[..., Any]) -> None:
    """Names that SQL, Parquet's paths or the engine itself could stumble over."""
    names = ["a.b", 'say "hi"', "select", "mark", "stop", "detail", "pending", "has 2", "URL2", "日本", "status", "s", "l0"]
    columns = {"url": [site.url("coffee.jpg")] * 2, "caption": ["caption one", "caption two"]}
    pq.write_table(pa.table(columns | {name: [0, 1] for name in names}), tmp_path / "rows.parquet")
    results = sift(tmp_path / "rows.parquet")
    shards = assert_fates(results, [GOOD, GOOD])
    assert {"a.b", 'say "hi"', "mark", "source_status", "日本"} <= set(shards[0])
    assert results.ledger()["a.b"].to_pylist() == [0, 1]
    for name in names:
        quoted = '"' + ("source_status" if name == "status" else name).replace('"', '""') + '"'
        kept = {"use": "filter.where", "keep": f"{quoted} = 1"}
        again = {**results.report["config"], "output": str(tmp_path / "again"), "work": str(tmp_path / "out" / "work")}
        again["stages"] = [kept, *again["stages"]]
        statuses = pairsift.run(again, runner="local", replace=True).fates()["status"].to_pylist()
        assert statuses == ["rejected", "success"], name
