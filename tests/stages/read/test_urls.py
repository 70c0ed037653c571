import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

from pairsift.stages.base import ConfigError
from pairsift.stages.read.urls import Urls

HEAD = b"url,caption\n"
OK = {"failure": None, "failure_detail": None}


def _read(path: Path, content: bytes, **parameters: Any) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return reading.rows(Urls(path=str(path), **parameters))


def _pairs(rows: list[dict[str, Any]]) -> list[tuple[str | None, str | None, str | None]]:
    return [(row["url"], row["caption"], row["failure"]) for row in rows]


# The same two pairs in every format


KINDS = ["parquet", "csv", "tsv", "jsonl", "json", "csv.gz", "tsv.gz", "jsonl.gz", "json.gz", "tsv.bz2", "jsonl.xz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [False, True])
def test_every_format_on_every_file_system(tmp_path: Path, kind: str, memory: bool) -> None:
    path = f"memory://pairsift-urls/{kind}/in.{kind}" if memory else str(tmp_path / f"in.{kind}")
    content = {
        "csv": 'URL,TEXT,n\nhttp://a,"x, ""y""",1\nhttp://b,é,2\n',
        "tsv": 'URL\tTEXT\tn\nhttp://a\tx, "y"\t1\nhttp://b\té\t2\n',
        "jsonl": '{"URL":"http://a","TEXT":"x, \\"y\\"","n":"1"}\n{"URL":"http://b","TEXT":"é","n":"2"}\n',
    }
    content["json"] = f"[{','.join(content['jsonl'].splitlines())}]"
    if kind == "parquet":
        table = pa.table({"URL": ["http://a", "http://b"], "TEXT": ['x, "y"', "é"], "n": ["1", "2"]})
        with fsspec.open(path, "wb") as file:
            pq.write_table(table, file)
    else:
        with fsspec.open(path, "wb", compression="infer") as file:
            file.write(content[kind.split(".", maxsplit=1)[0]].encode())
    rows = reading.rows(Urls(path=path, columns={"url": "URL", "caption": "TEXT"}))
    assert rows == [
        {"url": "http://a", "caption": 'x, "y"', "n": "1", **OK},
        {"url": "http://b", "caption": "é", "n": "2", **OK},
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_txt_is_one_url_per_line(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbfhttp://a \r\n\r\n  http://b\nhttp://\xff\nhttp://\0\nhttp://c"
    rows = _read(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert _pairs(rows) == [
        ("http://a", None, None),
        ("http://b", None, None),
        (None, None, "invalid_text"),
        (None, None, "unreadable_row"),
        ("http://c", None, None),
    ]


# Columns


def test_without_a_mapping_the_right_line_is_proposed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        _read(tmp_path / "a.csv", b"SAMPLE_ID,URL,TEXT\n1,http://a,x\n")
    assert "its columns are SAMPLE_ID, URL, TEXT" in str(error.value)
    assert "columns: {url: URL, caption: TEXT}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_mapping_says_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(ConfigError, match=r"no column 'TXT' for caption \(did you mean 'TEXT'\?\).*URL, TEXT"):
        _read(path, b"URL,TEXT\nhttp://a,x\n", columns={"url": "URL", "caption": "TXT"})
    with pytest.raises(ConfigError, match="must say which column is the url"):
        _read(path, b"URL,TEXT\nhttp://a,x\n", columns={"caption": "TEXT"})
    with pytest.raises(ConfigError, match="'width' is a column that pairsift writes"):
        _read(path, b"url,W\nhttp://a,x\n", columns={"url": "url", "width": "W"})


def test_a_caption_is_not_needed(tmp_path: Path) -> None:
    (row,) = _read(tmp_path / "a.csv", b"URL,TEXT\nhttp://a,x\n", columns={"url": "URL"})
    assert row == {"url": "http://a", "caption": None, "TEXT": "x", **OK}


def test_uid_and_renames(tmp_path: Path) -> None:
    mapping = {"url": "url", "uid": "hash", "language": "LANG"}
    (row,) = _read(tmp_path / "a.csv", b"url,hash,LANG\nhttp://a,ff,en\n", columns=mapping)
    assert row == {"url": "http://a", "caption": None, "uid": "ff", "language": "en", **OK}


def test_extras_that_collide_are_renamed_whatever_their_case(tmp_path: Path) -> None:
    rows = _read(tmp_path / "a.csv", b"url,caption,WIDTH,status,uid,URL,similarity\nhttp://a,x,1,2,3,4,5\n")
    names = ["url", "caption", "source_WIDTH", "source_status", "source_uid", "source_URL", "similarity"]
    assert list(rows[0])[:-2] == names


def test_extras_can_be_chosen(tmp_path: Path) -> None:
    content = b"url,caption,a,b\nhttp://a,x,1,2\n"
    assert list(_read(tmp_path / "a.csv", content, extra=["b"])[0])[:-2] == ["url", "caption", "b"]
    assert list(_read(tmp_path / "a.csv", content, extra=[])[0])[:-2] == ["url", "caption"]
    with pytest.raises(ConfigError, match=r"no column 'c'.*input.extra"):
        _read(tmp_path / "a.csv", content, extra=["c"])


def test_odd_headers(tmp_path: Path) -> None:
    (row,) = _read(tmp_path / "a.csv", b"\xef\xbb\xbf,url,x,x\n0,http://a,1,2\n")
    assert row == {"url": "http://a", "caption": None, "column_1": "0", "x": "1", "x_2": "2", **OK}


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "cc3m.tsv"
    rows = _read(path, b"a dog\thttp://a\na cat\thttp://b\n", header=["caption", "url"])
    assert _pairs(rows) == [("http://a", "a dog", None), ("http://b", "a cat", None)]
    with pytest.raises(ConfigError, match=r"has 2 fields in its first line, and input.header names 3"):
        Urls(path=str(path), header=["caption", "url", "x"]).check()


# CSV rows that are not as they should be


def test_quoted_line_ends_and_very_long_captions(tmp_path: Path) -> None:
    caption = "word, \n" * 300_000  # 2.1 MB
    rows = _read(tmp_path / "a.csv", HEAD + f'http://a,"{caption[:7000]}"\r\nhttp://b,{"x" * 2_100_000}\n'.encode())
    assert _pairs(rows) == [("http://a", caption[:7000], None), ("http://b", "x" * 2_100_000, None)]


def test_bad_csv_rows_are_given_with_their_line(tmp_path: Path) -> None:
    rows = _read(tmp_path / "a.csv", HEAD + b"http://a,1\nhttp://b\nhttp://c,1,2\n\nhttp://d,\xff\nhttp://e,\0\nhttp://f,2\r\n")
    assert _pairs(rows) == [
        ("http://a", "1", None),
        (None, None, "unreadable_row"),
        (None, None, "unreadable_row"),
        ("http://d", None, "invalid_text"),
        (None, None, "unreadable_row"),
        ("http://f", "2", None),
    ]
    assert [row["failure_detail"] for row in rows if row["failure"]] == [
        "line 3: 1 fields, expected 2",
        "line 4: 3 fields, expected 2",
        "line 6: not UTF-8",
        "line 7: holds a NUL byte",
    ]


def test_a_quote_that_is_not_closed_costs_no_other_row(tmp_path: Path) -> None:
    rows = _read(tmp_path / "a.csv", HEAD + b'http://a,"open\nhttp://b,b\nhttp://c,c\n')
    assert _pairs(rows) == [(None, None, "unreadable_row"), ("http://b", "b", None), ("http://c", "c", None)]
    rows = _read(tmp_path / "a.tsv", b'caption\turl\n"open\thttp://a\nb\thttp://b\n"So" she said\thttp://c\n')
    assert _pairs(rows) == [("http://a", '"open', None), ("http://b", "b", None), ("http://c", '"So" she said', None)]


def test_no_input_row_is_lost_among_many_bad_ones(tmp_path: Path) -> None:
    bad = [b'http://%d,"open', b'http://%d,"a"b', b"http://%d", b"http://%d,\xfe", b'"%d', b"http://%d,a\rb"]
    lines = [bad[i % 7] % i if i % 7 < 6 else b"http://%d,fine" % i for i in range(2000)]
    rows = _read(tmp_path / "a.csv", HEAD + b"\n".join(lines) + b"\n")
    assert len(rows) == 2000
    assert [row["url"] for row in rows if row["caption"] == "fine"] == [f"http://{i}" for i in range(2000) if i % 7 == 6]


def test_utf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="UTF-16"):
        _read(tmp_path / "a.csv", "url,caption\n".encode("utf-16"))


def test_a_truncated_gzip_gives_its_rows_and_one_failure(tmp_path: Path) -> None:
    text = HEAD + b"".join(b"http://%d,%d\n" % (i, i * 7919) for i in range(5000))
    rows = _read(tmp_path / "a.csv.gz", gzip.compress(text)[:-2000])
    assert 100 < len(rows) < 5000
    assert rows[-1]["failure"] == "unreadable_row"
    assert "breaks off" in rows[-1]["failure_detail"]
    assert [row["url"] for row in rows[:10]] == [f"http://{i}" for i in range(10)]


# JSON Lines


def test_jsonl_types_come_from_the_first_lines(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {
            "url": "http://a",
            "caption": 1984,
            "i": 1,
            "f": 1,
            "b": True,
            "s": "x",
            "o": {"k": [1]},
            "m": 1,
            "big": 2**63,
            "n": None,
        },
        {"url": "http://b", "i": 2, "f": 2.5, "b": None, "s": None, "o": None, "m": "x", "big": 1},
    ]
    path = tmp_path / "a.jsonl"
    rows = _read(path, "\n\n".join(json.dumps(line) for line in lines).encode())
    assert rows[0] == {
        "url": "http://a", "caption": "1984", "i": 1, "f": 1.0, "b": True, "s": "x", "o": '{"k": [1]}', "m": "1",
        "big": "9223372036854775808", "n": None, **OK,
    }  # fmt: skip
    assert rows[1]["caption"] is None
    assert rows[1]["m"] == "x"
    assert rows[1]["f"] == 2.5
    types = dict(zip(Urls(path=str(path)).schema().names, Urls(path=str(path)).schema().types, strict=True))
    assert [str(types[name]) for name in ("i", "f", "b", "n")] == ["int64", "double", "bool", "string"]


def test_bad_jsonl_rows_are_given_with_their_line(tmp_path: Path) -> None:
    good = b'{"url": "http://a", "caption": "x", "n": 1}\n'
    bad = [
        b"nope",
        b"[1]",
        b'{"url": ["x"]}',
        b'{"url": "http://b", "caption": "\\ud800"}',
        b'{"url": "http://c", "caption": "\xff"}',
        b"[" * 200_000,
        b'{"url": "http://d", "n": ' + b"1" * 5000 + b"}",
    ]
    rows = _read(tmp_path / "a.jsonl", good + b"\n".join(bad) + b"\n")
    assert [row["failure"] for row in rows] == [
        None, "unreadable_row", "unreadable_row", "unreadable_row", "invalid_text", "invalid_text", "unreadable_row",
        "unreadable_row",
    ]  # fmt: skip
    assert [row["url"] for row in rows][4:6] == ["http://b", "http://c"]
    assert rows[3]["failure_detail"] == "line 4: url: expected text, got a list"


def test_a_value_that_does_not_fit_its_column_is_never_null_unseen(tmp_path: Path) -> None:
    lines = [b'{"url": "http://a", "n": 1}'] * 1000 + [b'{"url": "http://b", "n": "text"}', b'{"url": "http://c", "n": 2.0}']
    rows = _read(tmp_path / "a.jsonl", b"\n".join(lines))
    assert rows[1000]["url"] == "http://b"
    assert rows[1000]["failure"] == "unreadable_row"
    assert rows[1000]["failure_detail"] == "line 1001: n: expected int64, got text"
    assert rows[1001]["n"] == 2
    assert rows[1001]["failure"] is None


# Parquet


def test_parquet_extras_keep_their_types(tmp_path: Path) -> None:
    columns = {
        "url": pa.array(["http://a", None], pa.large_string()),
        "caption": pa.array(["x", "y"]).dictionary_encode(),
        "half": pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2)),
        "nested": pa.array([{"a": [1, 2]}, None]),
        "binary": pa.array([b"\xff", b""]),
        "when": pa.array([1, 2], pa.timestamp("us", "UTC")),
        "a.b": pa.array([1, 2], pa.int16()),
        "nothing": pa.nulls(2),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    reader = Urls(path=str(path))
    rows = reading.rows(reader)
    assert _pairs(rows) == [("http://a", "x", None), (None, "y", None)]
    assert rows[0]["nested"] == {"a": [1, 2]}
    assert rows[0]["binary"] == b"\xff"
    assert rows[0]["a.b"] == 1
    assert [row["half"] for row in rows] == [[1.0, 2.0], None]
    assert [row["when"].microsecond for row in rows] == [1, 2]
    assert reader.schema().field("half").type == pa.list_(pa.float16(), 2)
    assert reader.schema().field("nothing").type == pa.string()


def test_parquet_nulls_in_fixed_size_lists_beside_types_that_parquet_does_not_tell(tmp_path: Path) -> None:
    # Arrow before 26 cannot read such a list by itself, and without it the other columns' types are told by Parquet alone.
    columns = {
        "url": pa.array(["http://a", "http://b", "http://c"]),
        "pair": pa.array([None, [1.0, None], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "inside": pa.array([{"v": None}, None, {"v": [[1], [2]]}], pa.struct([("v", pa.list_(pa.list_(pa.int8(), 1), 2))])),
        "took": pa.array([1, None, 3], pa.duration("ms")),
        "when": pa.array([1, 2, 3], pa.timestamp("ms", "Europe/Berlin")),
        "long": pa.array(["x", "y", None], pa.large_string()),
        "kind": pa.array(["x", "x", None]).dictionary_encode(),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)
    reader = Urls(path=str(path))
    found = pa.concat_tables([table for source in reader.sources() for table in reader.read(source)])
    assert found["failure"].null_count == 3
    for name in ("pair", "inside", "took", "when", "long"):
        assert reader.schema().field(name).type == columns[name].type
        assert found[name].to_pylist() == columns[name].to_pylist()
    assert found["kind"].to_pylist() == ["x", "x", None]


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff", b"also fine"])
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), raw.view(pa.string()))
    url = pa.array([b"http://a", b"http://b", b"http://c"])  # binary, as older writers leave text
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": url, "caption": raw.view(pa.string()), "tags": nested}), path)
    rows = reading.rows(Urls(path=str(path)))
    assert _pairs(rows) == [("http://a", "fine", None), ("http://b", None, "invalid_text"), ("http://c", "also fine", None)]
    assert [row["tags"] for row in rows] == [["fine"], None, ["also fine"]]


def test_a_url_column_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": [1, 2]}), path)
    with pytest.raises(ConfigError, match="'url' for url is int64, not text"):
        Urls(path=str(path)).check()


def test_a_damaged_row_group_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    urls = [f"http://{i * 7919 % 10007}/{i}" for i in range(3000)]
    pq.write_table(pa.table({"url": urls}), path, row_group_size=1000, use_dictionary=False, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 200] = b"\xaa" * 200
    rows = _read(path, bytes(content))
    assert len(rows) == 3000
    assert [row["url"] for row in rows[:1000] + rows[2000:]] == urls[:1000] + urls[2000:]
    assert {row["failure"] for row in rows[1000:2000]} == {"unreadable_row"}
    assert "row group 1" in rows[1500]["failure_detail"]


def test_a_large_row_group_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://a"] * 25_000, "caption": ["x" * 4000] * 25_000}), path, use_dictionary=False)
    reader = Urls(path=str(path))
    before = pa.total_allocated_bytes()
    most = 0
    lengths = []
    for table in reader.read(reader.sources()[0]):
        lengths.append(table.num_rows)
        most = max(most, pa.total_allocated_bytes() - before)
    assert sum(lengths) == 25_000
    assert max(lengths) <= 10_000
    assert most < 250e6  # bytes; 100 MB of text at once is more with its copies


# Several files


def test_later_files_may_lack_extras_or_have_more(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.5], "url": ["http://b"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"n": pa.array([3], pa.int8()), "url": ["http://c"]}), tmp_path / "c.parquet")
    rows = reading.rows(Urls(path=str(tmp_path)))
    assert [(row["url"], row["n"]) for row in rows] == [("http://a", 1), ("http://b", None), ("http://c", 3)]


def test_a_later_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["http://b"], "n": ["text"]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet: the column 'n' is string, and int64 in the first file"):
        reading.rows(Urls(path=str(tmp_path)))
    pq.write_table(pa.table({"URL": ["http://b"]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet has no column 'url'"):
        reading.rows(Urls(path=str(tmp_path)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_an_empty_file_has_no_rows(tmp_path: Path, kind: str) -> None:
    reader = Urls(path=str(tmp_path / f"a.{kind}"))
    assert _read(tmp_path / f"a.{kind}", b"") == []
    assert reader.schema().names == ["url", "caption"]


def test_the_first_file_with_columns_decides(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(b"url,caption,n\nhttp://b,x,1\n")
    assert reading.rows(Urls(path=str(tmp_path))) == [{"url": "http://b", "caption": "x", "n": "1", **OK}]
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert reading.rows(Urls(path=str(tmp_path / "c.parquet"))) == []


# What cannot be read at all


@pytest.mark.parametrize(
    ("name", "says"),
    [("missing.csv", "nothing matches"), ("a.xyz", "cannot tell the format"), ("a.parquet", "not a Parquet file")],
)
def test_input_that_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "a.xyz").write_bytes(b"x")
    (tmp_path / "a.parquet").write_bytes(b"this is not Parquet")
    with pytest.raises(ConfigError, match=says) as error:
        Urls(path=str(tmp_path / name)).check()
    assert "\n" not in str(error.value)


def test_a_readme_beside_the_data_is_no_list_of_urls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a"]}), tmp_path / "a.parquet")
    (tmp_path / "README.txt").write_text("Read me\n")
    with pytest.raises(ConfigError, match=r"README\.txt"):
        Urls(path=str(tmp_path)).check()
    assert len(reading.rows(Urls(path=str(tmp_path), format="parquet"))) == 1


def test_the_format_can_be_said(tmp_path: Path) -> None:
    assert _pairs(_read(tmp_path / "a.dat", b"url\tcaption\nhttp://a\tx\n", format="tsv")) == [("http://a", "x", None)]


def test_it_can_be_sent_to_a_worker_and_paths_are_not_science(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b"http://a,x\n")
    reader = Urls(path=str(path))
    reader.check()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    assert reading.rows(copy) == reading.rows(reader)
    assert "path" not in reader.science()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("img2dataset_test_1000.parquet", 1000),
        ("loc_addi_public_domain.tsv", 41_614),
        ("documerica_5992_public_domain.tsv", 5_925),
    ],
)
def test_real_lists(test_data: Path, name: str, rows: int) -> None:
    reader = Urls(path=str(test_data / "url_lists" / name), columns={"url": "URL", "caption": "TEXT"})
    tables = [table for source in reader.sources() for table in reader.read(source)]
    table = pa.concat_tables(tables)
    assert table.num_rows == rows
    assert table.column("failure").null_count == rows
    assert all(url.startswith("http") for url in table.column("url").to_pylist() if url)
