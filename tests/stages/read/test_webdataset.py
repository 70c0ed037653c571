import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import reading
from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext

from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats.tars import base_and_extension
from pairsift.stages.read.webdataset import Webdataset


def _tar(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _image(row: dict[str, Any]) -> bytes:
    with fsspec.open(row["image_path"], "rb") as file:
        file.seek(row["image_offset"])
        data: bytes = file.read(row["image_length"])
        return data


def _meta(i: int, **more: Any) -> dict[str, Any]:
    """The JSON that img2dataset writes beside an image."""
    return {
        "caption": f"caption {i}", "url": f"http://{i}", "key": f"{i:09d}", "status": "success", "error_message": None,
        "width": 256, "height": 171, "original_width": 640, "original_height": 428, "exif": "{}", "sha256": "ab" * 32, **more,
    }  # fmt: skip


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "00000.tar"
    with TarWriter(str(path)) as writer:
        for i in range(20):
            image = bytes([i]) * (1000 + 37 * i)
            meta = _meta(i, similarity=0.3, uid=f"{i:032x}", n=i, boxes=[[0, 1]], WIDTH=7)
            writer.write({"__key__": f"{i:09d}", "jpg": image, "txt": f"text {i}", "json": meta})
    return path


def test_what_webdataset_wrote(shard: Path) -> None:
    reader = Webdataset(path=str(shard))
    rows = reading.rows(reader)
    assert len(rows) == 20
    for i, row in enumerate(rows):
        assert _image(row) == bytes([i]) * (1000 + 37 * i)
        assert row["source_key"] == f"{i:09d}"
        assert row["uid"] == f"{i:032x}"
    assert {name: rows[3][name] for name in rows[3] if not name.startswith("image_") and name not in ("uid", "source_key")} == {
        "url": "http://3", "caption": "text 3", "width": 256, "height": 171, "original_width": 640, "original_height": 428,
        "exif": "{}", "sha256": "ab" * 32, "similarity": 0.3, "n": 3, "boxes": "[[0, 1]]", "source_WIDTH": 7,
        "source_members": None, "failure": None, "failure_detail": None,
    }  # fmt: skip
    schema = reader.schema()
    assert schema.field("width").type == pa.int32()
    assert schema.field("n").type == pa.int64()
    assert schema.names[:7] == ["url", "caption", "uid", "source_key", "image_path", "image_offset", "image_length"]
    assert {row["image_format"] for row in rows} == {"jpg"}
    assert rows[0]["image_path"] == str(shard)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_kind_with_long_and_odd_names(tmp_path: Path, kind: int) -> None:
    folder = "f" * 60 + "/" + "g" * 80
    members = [
        (f"{folder}/a.JPEG", b"one"),
        (f"{folder}/a.txt", b"x"),
        ("plain.webp", b"two"),
        ("b.c.jpg", b""),
        ("b.png", b"three"),
    ]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members, kind))))
    assert [(row["source_key"], row["image_format"]) for row in rows] == [
        (f"{folder}/a", "jpg"),
        ("plain", "webp"),
        ("b", "png"),
    ]
    assert [_image(row) for row in rows] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "name", ["a.jpg", "a/b.c.jpg", "a.b/c.JPG", "none", ".hidden", "a/.x", "a.", "x/y.tar/z", "./a.seg.png"]
)
def test_names_are_split_as_webdataset_does(name: str) -> None:
    key, suffix = base_plus_ext(name)
    assert base_and_extension(name.encode()) == (None if key is None else (key.encode(), suffix.lower().encode()))


def test_the_first_listed_extension_is_the_image(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [("a.png", b"png"), ("a.jpg", b"jpg"), ("a.mask.png", b"mask")])
    assert _image(reading.rows(Webdataset(path=str(path)))[0]) == b"jpg"
    assert _image(reading.rows(Webdataset(path=str(path), images=["mask.png"]))[0]) == b"mask"


def test_folders_metadata_and_links_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in [("folder.x", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        for name in ("__meta__/x.jpg", "noextension", "a.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert [row["source_key"] for row in reading.rows(Webdataset(path=str(path)))] == ["a"]


# Captions


@pytest.mark.parametrize(
    ("text", "meta", "caption"),
    [
        (b"t", {"caption": "j"}, "t"),
        (b"", {"caption": "j"}, "j"),
        (b"", {"caption": None}, None),
        (b"", {}, ""),
        (None, {"caption": "j"}, "j"),
        (None, {}, None),
        (" é\n".encode(), {}, " é\n"),
    ],
)
def test_the_caption_is_the_text_or_else_the_json(
    tmp_path: Path, text: bytes | None, meta: dict[str, Any], caption: str
) -> None:
    members = [("a.jpg", b"x"), ("a.json", json.dumps(meta).encode()), *([] if text is None else [("a.txt", text)])]
    (row,) = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members))))
    assert row["caption"] == caption
    assert row["failure"] is None


# Rows that are not as they should be


def test_bad_samples_are_given_with_their_failure(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"x"), ("a.json", b'{"n": 1}'),
        ("b.txt", b"no image"),
        ("c.jpg", b"x"), ("c.json", b"{nope"), ("c.txt", b"c"),
        ("d.jpg", b"x"), ("d.txt", b"\xff"),
        ("e.jpg", b"x"), ("e.jpg", b"y"),
        ("f.jpg", b"x"), ("f.json", b'{"url": {}}'),
        ("g.jpg", b"x"), ("g.json", b'{"caption": "\\ud800"}'),
        ("h.jpg", b"x"), ("h.json", b"[]"),
    ]  # fmt: skip
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members))))
    assert [(row["source_key"], row["failure"]) for row in rows] == [
        ("a", None), ("b", "missing_image"), ("c", "unreadable_row"), ("d", "invalid_text"), ("e", "unreadable_row"),
        ("f", "unreadable_row"), ("g", "invalid_text"), ("h", "unreadable_row"),
    ]  # fmt: skip
    assert rows[1]["caption"] == "no image"
    assert rows[1]["image_path"] is None
    assert "a.tar sample c: not JSON" in rows[2]["failure_detail"]


def test_a_later_value_that_does_not_fit(tmp_path: Path) -> None:
    members = []
    for i in range(101):
        meta = {"n": i if i < 100 else "text", "width": 5}
        members += [(f"{i:03d}.jpg", b"x"), (f"{i:03d}.json", json.dumps(meta).encode())]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members))))
    assert [row["failure"] for row in rows] == [None] * 100 + ["unreadable_row"]
    assert "n: expected int64, got text" in rows[100]["failure_detail"]
    assert rows[100]["width"] == 5


def test_a_tar_cut_anywhere_gives_whole_samples_and_at_most_one_failure(shard: Path, tmp_path: Path) -> None:
    content = shard.read_bytes()
    whole = reading.rows(Webdataset(path=str(shard)))
    cut = tmp_path / "cut.tar"
    for length in range(0, len(content), 1301):
        cut.write_bytes(content[:length])
        rows = [
            row for table in Webdataset(path=str(cut)).read(Webdataset(path=str(cut)).sources()[0]) for row in table.to_pylist()
        ]
        good = [row for row in rows if row["failure"] is None]
        assert [row["source_key"] for row in good[:-1]] == [row["source_key"] for row in whole[: max(0, len(good) - 1)]]
        assert all(row["image_offset"] + row["image_length"] <= length for row in good)
        bad = [row for row in rows if row["failure"]]
        assert len(bad) <= 1
        assert bad == rows[len(good) :]
        assert all(row["failure"] == "unreadable_row" and "cut.tar is damaged" in row["failure_detail"] for row in bad)
        assert bad or length % 512 == 0 or len(good) == 20


def test_a_damaged_header_does_not_pass_for_the_end(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x") for i in range(5)], tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[3 * 1024 : 3 * 1024 + 200] = b"?" * 200
    path.write_bytes(content)
    rows = reading.rows(Webdataset(path=str(path)))
    assert [row["failure"] for row in rows] == [None, None, "unreadable_row"]
    assert "no valid header at byte 3072" in rows[-1]["failure_detail"]


def test_a_tar_that_is_none_does_not_stop_the_others(shard: Path) -> None:
    (shard.parent / "00001.tar").write_bytes(b"this is no tar" * 100)
    (shard.parent / "00002.tar").write_bytes(shard.read_bytes())
    rows = reading.rows(Webdataset(path=str(shard.parent)))
    assert [row["failure"] for row in rows] == [None] * 20 + ["unreadable_row"] + [None] * 20
    assert "00001.tar" in rows[20]["failure_detail"]


# Paths


def test_braces_globs_lists_and_folders(tmp_path: Path) -> None:
    for i in range(3):
        _tar(tmp_path / f"{i:05d}.tar", [(f"{i}.jpg", b"x")])
    (tmp_path / "00000_stats.json").write_text("{}")
    for path in (
        str(tmp_path),
        f"{tmp_path}/*.tar",
        f"{tmp_path}/{{00000..00002}}.tar",
        [f"{tmp_path}/0000{{0,1}}.tar", f"{tmp_path}/*.tar"],
    ):
        assert [row["source_key"] for row in reading.rows(Webdataset(path=path))] == ["0", "1", "2"]
    with pytest.raises(ConfigError, match=r"00003\.tar"):
        Webdataset(path=f"{tmp_path}/{{00000..00003}}.tar").check()
    with pytest.raises(ConfigError, match="braces"):
        Webdataset(path=f"{tmp_path}/{{00000..00002.tar").check()


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match="uncompressed"):
        Webdataset(path=str(tmp_path)).check()


def test_tars_in_an_object_store(shard: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/pairsift-tars/00000.tar", shard.read_bytes())
    rows = reading.rows(Webdataset(path="memory://pairsift-tars/*.tar"))
    assert rows[7]["image_path"] == "memory:///pairsift-tars/00000.tar"
    assert [_image(row)[0] for row in rows] == list(range(20))
    memory.rm("/pairsift-tars", recursive=True)


def test_extras_can_be_chosen(shard: Path) -> None:
    assert Webdataset(path=str(shard), extra=["n"]).schema().names[-1] == "n"
    assert "similarity" not in Webdataset(path=str(shard), extra=[]).schema().names
    with pytest.raises(ConfigError, match=r"no JSON field 'x'.*similarity"):
        Webdataset(path=str(shard), extra=["x"]).check()


def test_without_json_or_samples(tmp_path: Path) -> None:
    names = ["url", "caption", "source_key", "image_path", "image_offset", "image_length", "image_format", "source_members"]
    assert Webdataset(path=str(_tar(tmp_path / "a.tar", [("a.jpg", b"x")]))).schema().names == names
    reader = Webdataset(path=str(_tar(tmp_path / "b.tar", [])))
    assert reader.schema().names == names
    assert reading.rows(reader) == []


def test_it_can_be_sent_to_a_worker_and_does_not_load_torch(shard: Path) -> None:
    reader = Webdataset(path=str(shard))
    assert pickle.loads(pickle.dumps(reader)) == reader
    code = "import sys, pairsift.stages.read.webdataset; sys.exit('torch' in sys.modules or 'webdataset' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# Tars that were made to do harm


def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    names = ["../../etc/passwd.jpg", "/root/.ssh/id.jpg", "a/../../b.jpg", "C:\\x.jpg", "a\nb.jpg", "\x1b[2J.jpg"]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", [(name, b"x") for name in names]))))
    assert [row["source_key"] for row in rows] == [name.removesuffix(".jpg") for name in names]
    assert {row["image_path"] for row in rows} == {str(tmp_path / "a.tar")}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    members = [("\udcff.jpg", b"one"), ("\udcfe.jpg", b"two"), ("\udcfe.txt", b"t"), ("é.jp\udcff", b"x")]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members, tarfile.GNU_FORMAT))))
    assert [(row["source_key"], row["caption"], row["failure"]) for row in rows] == [
        ("\ufffd", None, None),
        ("\ufffd", "t", None),
        ("é", None, "missing_image"),
    ]
    assert [_image(row) for row in rows[:2]] == [b"one", b"two"]


def test_a_key_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.txt", b"t")]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members))))
    assert [(row["source_key"], _image(row), row["caption"]) for row in rows] == [
        ("a", b"1", None), ("b", b"2", None), ("a", b"3", "t"),
    ]  # fmt: skip


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("a.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"t"))
    (row,) = reading.rows(Webdataset(path=str(tmp_path / "a.tar")))
    assert (row["failure"], row["image_path"], row["source_members"]) == ("missing_image", None, None)


def test_a_sample_of_very_many_members(tmp_path: Path) -> None:
    members = [("a.jpg", b"x"), *((f"a.{n}", b"") for n in range(1200)), ("b.jpg", b"x")]
    rows = reading.rows(Webdataset(path=str(_tar(tmp_path / "a.tar", members))))
    assert [row["failure"] for row in rows] == ["unreadable_row", None]
    assert "more than 1000 members" in rows[0]["failure_detail"]


# What one asks for


def test_columns_are_named_by_the_json_fields_that_hold_them(tmp_path: Path) -> None:
    meta = json.dumps({"id": "ff", "recaption": "new", "link": "http://a", "score": 0.5}).encode()
    path = _tar(tmp_path / "a.tar", [("a.jpg", b"x"), ("a.txt", b"old"), ("a.json", meta), ("b.jpg", b"x"), ("b.txt", b"old")])
    mapping = {"url": "link", "caption": "recaption", "uid": "id", "similarity": "score"}
    rows = reading.rows(Webdataset(path=str(path), columns=mapping))
    assert [rows[0][name] for name in mapping] == ["http://a", "new", "ff", 0.5]
    assert rows[1]["caption"] == "old"
    with pytest.raises(ConfigError, match=r"no JSON field 'x' for caption; fields: id, recaption, link, score"):
        Webdataset(path=str(path), columns={"caption": "x"}).check()
    with pytest.raises(ConfigError, match="'width' is a column that pairsift writes"):
        Webdataset(path=str(path), columns={"width": "score"}).check()


def test_captions_in_other_members(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [("a.jpg", b"x"), ("a.caption", b"one"), ("a.cap.txt", b"two")])
    assert reading.rows(Webdataset(path=str(path)))[0]["caption"] == "one"
    row = reading.rows(Webdataset(path=str(path), texts=["cap.txt"]))[0]
    assert row["caption"] == "two"
    assert [member["extension"] for member in row["source_members"]] == ["caption"]
