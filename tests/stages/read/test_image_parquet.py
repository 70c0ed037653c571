"""Images from Parquet: what Hugging Face's `datasets` wrote, other shapes, and files that are not as they should be."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading
from PIL import Image

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.read.image_parquet import ImageParquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(n: int, name: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((8, 8 + n, 3), n, np.uint8)).save(sink, name)
    return sink.getvalue()


def rows_of(path: Path, **parameters: Any) -> list[dict[str, Any]]:
    return reading.rows(ImageParquet(path=str(path), **parameters))


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def structs(*images: tuple[bytes | None, str | None] | None) -> pa.Array:
    return pa.array([None if image is None else dict(zip(("bytes", "path"), image, strict=True)) for image in images], STRUCT)


@pytest.mark.parametrize("unit_rows", [1000, 3])
def test_what_datasets_wrote_comes_out_as_it_went_in(tmp_path: Path, unit_rows: int) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    images = [picture(n, ("PNG", "JPEG", "WEBP")[n % 3]) for n in range(7)]
    features = Features({"image": ImageFeature(), "caption": List(Value("string")), "img_id": Value("int64")})
    found = {
        "image": [{"bytes": image, "path": f"{n}.jpg"} for n, image in enumerate(images)],
        "caption": [[f"{n} first", f"{n} second"] for n in range(7)],
        "img_id": list(range(7)),
    }
    Dataset.from_dict(found, features=features).to_parquet(tmp_path / "train.parquet", batch_size=2)
    config = {
        "input": {"use": "read.image_parquet", "path": str(tmp_path / "train.parquet"), "unit_rows": unit_rows},
        "output": str(tmp_path / "out"),
        "stages": [{"use": "filter.where", "keep": "img_id <> 2"}],
    }
    results = pairsift.run(config, runner="local")
    assert results.report["kept"] == 6
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for row in pq.read_table(tmp_path / "out" / "shards" / "00000.parquet").to_pylist():
        n = row["img_id"]
        assert row["caption"] == f"{n} first"
        assert row["captions"] == [f"{n} first", f"{n} second"]
        assert row["source_key"] == f"{n}.jpg"
        (image,) = (data for name, data in members.items() if name.startswith(row["key"]) and name[-4:] not in ("json", ".txt"))
        assert hashlib.sha256(image).digest() == hashlib.sha256(images[n]).digest()
    names = [name.rpartition(".")[2] for name in members if not name.endswith(("json", "txt"))]
    assert names == ["png", "jpg", "png", "jpg", "webp", "png"]
    payloads = list((tmp_path / "out" / "work" / "payloads").rglob("*.tar"))
    assert len(payloads) == -(-7 // unit_rows)
    assert pairsift.run(config, runner="local").report["shards_written"] == 0


def test_bytes_alone_and_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", jpg=[picture(1)], TEXT=["t"], URL=["http://a"], width=[5], blob=[b"x"])
    (row,) = rows_of(path, columns={"url": "URL", "caption": "TEXT"})
    assert (row["url"], row["caption"], row["image"], row["image_format"]) == ("http://a", "t", picture(1), "png")
    assert (row["source_key"], row["source_width"], row["blob"]) == (None, 5, b"x")
    (row,) = rows_of(path, image="blob", extra=[])
    assert (row["failure"], row["image"], row["url"]) == ("not_an_image", None, None)


def test_rows_without_an_image(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(3))
    images = structs((picture(1), None), None, (None, str(secret)), (b"", "a"), (b"<html>", "b"), (None, "file:///etc/passwd"))
    rows = rows_of(write(tmp_path / "a.parquet", image=images, caption=[*"abcdef"]))
    assert [row["failure"] for row in rows] == [
        None, "missing_image", "missing_image", "not_an_image", "not_an_image", "missing_image",
    ]  # fmt: skip
    assert [row["image"] for row in rows[1:]] == [None] * 5
    assert [row["caption"] for row in rows] == [*"abcdef"]


@pytest.mark.parametrize(
    ("columns", "parameters", "says"),
    [
        ({"url": ["u"]}, {}, "no column holds bytes; lists of URLs are for read.urls"),
        ({"a": [b"x"], "b": [b"x"]}, {}, "say which column holds the images with input.image; columns of bytes are a, b"),
        ({"a": [b"x"]}, {"image": "b"}, "no column 'b' of images; columns of bytes are a"),
        ({"image": [b"x"]}, {"columns": {"caption": "image"}}, "'image' is the image's column"),
    ],
)
def test_what_cannot_be(tmp_path: Path, columns: dict[str, Any], parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        rows_of(write(tmp_path / "a.parquet", **columns), **parameters)


def test_damage_costs_the_row_group(tmp_path: Path) -> None:
    table = pa.table({"image": structs(*((picture(n), None) for n in range(40))), "caption": [f"{n}" for n in range(40)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, compression="none")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0).data_page_offset
    content[start : start + 12] = b"\xff" * 12
    (tmp_path / "a.parquet").write_bytes(content)
    rows = rows_of(tmp_path / "a.parquet")
    assert [row["failure"] for row in rows] == [None] * 10 + ["unreadable_row"] * 10 + [None] * 20
    assert "row group 1" in rows[10]["failure_detail"]


def test_bounded_memory_makes_several_payloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairsift.pipeline.ledger.intake_images._MOST", 400)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": structs(*((picture(n), None) for n in range(20)))}), path, row_group_size=4)
    config = {"input": {"use": "read.image_parquet", "path": str(path), "unit_rows": 15}, "output": str(tmp_path / "out")}
    assert pairsift.run(config, runner="local").report["kept"] == 20
    assert len(list((tmp_path / "out" / "work" / "payloads").rglob("*.tar"))) > 2
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        images = [tar.extractfile(member).read() for member in tar if member.name.endswith("png")]  # type: ignore[union-attr]
    assert images == [picture(n) for n in range(20)]
