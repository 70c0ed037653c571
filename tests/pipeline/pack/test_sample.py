"""The members of samples, against what Python's json and tarfile write of the same rows."""

import datetime
import decimal
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsift.pipeline.ledger.ranges import References
from pairsift.pipeline.pack.sample import Samples, json_texts, plain
from pairsift.stages.storage import Folder

TEXTS = ["", "plain", 'say "x"', "back\\slash", "größer als 日本 🦊", "a\nb\t\x00\x1f\x7f", None, "</script>", "%s {0}"]
NOW = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, datetime.timezone.utc)
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), TEXTS),
    "large": (pa.large_string(), TEXTS),
    'né "q"': (pa.string(), ["a", None]),
    "nothing": (pa.null(), [None]),
    "yes": (pa.bool_(), [True, False, None]),
    "small": (pa.int8(), [-128, None, 127]),
    "big": (pa.uint64(), [2**64 - 1, 0, None]),
    "half": (pa.float16(), [np.float16(0.1), None, np.float16("nan")]),
    "single": (pa.float32(), [0.1, -0.0, 1e30, 3.4e38, float("inf"), None]),
    "double": (pa.float64(), [0.1, 1e16, 1e-5, 123456789.0, float("nan"), float("-inf"), None, 5e-324]),
    "day": (pa.date32(), [NOW.date(), None]),
    "moment": (pa.timestamp("us", "UTC"), [NOW, None]),
    "hour": (pa.time64("us"), [NOW.time(), None]),
    "span": (pa.duration("s"), [datetime.timedelta(days=1, seconds=2), None]),
    "price": (pa.decimal128(10, 2), [decimal.Decimal("1.50"), None]),
    "bytes": (pa.binary(), [b"\xff\x00", b"", None]),
    "boxes": (pa.list_(pa.list_(pa.float64())), [[[0.5, float("nan")], []], [], None]),
    "license": (pa.struct({"name": pa.string(), "year": pa.int32()}), [{"name": "a\nb", "year": None}, None]),
    "tags": (pa.dictionary(pa.int8(), pa.string()), ["cat", None, "dog"]),
}  # fmt: skip


def table(rows: int) -> pa.Table:
    columns = {name: pa.array([values[i % len(values)] for i in range(rows)], kind) for name, (kind, values) in COLUMNS.items()}
    return pa.table({"ordinal": pa.array(range(rows)), **columns})


def test_json_is_what_python_writes() -> None:
    rows = table(24)
    wanted = [json.dumps({name: plain(row[name]) for name in COLUMNS}, indent=4) for row in rows.to_pylist()]
    assert json_texts(rows).to_pylist() == wanted
    assert json_texts(rows.slice(5, 7)).to_pylist() == wanted[5:12]
    assert json_texts(rows.slice(0, 0)).to_pylist() == []


@given(texts=st.lists(st.none() | st.text()), skipped=st.integers(0, 3))
def test_any_text_is_escaped(texts: list[str | None], skipped: int) -> None:
    texts = [text and text.encode("utf-8", "ignore").decode() for text in texts]
    rows = pa.table({"caption": pa.array(texts, pa.string())}).slice(skipped)
    assert [json.loads(text) for text in json_texts(rows).to_pylist()] == [{"caption": text} for text in texts[skipped:]]


@given(numbers=st.lists(st.none() | st.floats()))
def test_any_number_is_what_python_writes(numbers: list[float | None]) -> None:
    for kind in (pa.float64(), pa.float32()):
        column = pa.array(np.array([np.nan if n is None else n for n in numbers]), pa.float64()).cast(kind, safe=False)
        found = json_texts(pa.table({"n": column})).to_pylist()
        assert found == [json.dumps({"n": plain(n)}, indent=4) for n in column.to_pylist()]


@pytest.mark.parametrize("rows", [1, 60])
def test_members_are_what_tarfile_writes(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suffixes before, between and after those of text and JSON; sizes at and around a block's; several pieces."""
    monkeypatch.setattr("pairsift.pipeline.pack.sample._AT_ONCE", 8 << 10)
    rng = np.random.default_rng(0)
    lengths = [(0, 1, 511, 512, 513, 1024, 9000, 40_000)[i % 8] for i in range(rows)]
    images = [rng.bytes(length) for length in lengths]
    (tmp_path / "images").write_bytes(b"".join(images))
    references = {
        "image_path": [str(tmp_path / "images")] * rows,
        "image_offset": pa.array(np.cumsum([0, *lengths[:-1]]), pa.int64()),
        "image_length": pa.array(lengths, pa.int64()),
        "image_format": [("jpg", "png", "webp", "k")[i % 4] for i in range(rows)],
    }
    captions = [(None, "", "a caption", "größer " * 100)[i % 4] for i in range(rows)]
    keys = [f"{i:09d}" for i in range(rows)]
    found = pa.table({"key": keys, "caption": pa.array(captions, pa.string()), **references})
    sink, oracle = io.BytesIO(), io.BytesIO()
    samples = Samples(found)
    written = samples.write(References.of(found, Folder(str(tmp_path))), sink)
    assert written == len(sink.getvalue()) == samples.blocks().sum() * 512
    with tarfile.open(fileobj=oracle, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        texts = [text.encode() for text in json_texts(found).to_pylist()]
        for key, image, suffix, text, caption in zip(keys, images, references["image_format"], texts, captions, strict=True):
            members = {suffix: image, "json": text, "txt": (caption or "").encode()}
            for name in sorted(members):
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size, info.mode = len(members[name]), 0o444
                archive.addfile(info, io.BytesIO(members[name]))
    assert oracle.getvalue().startswith(sink.getvalue())
    assert not any(oracle.getvalue()[written:])


def test_plain_values_for_json() -> None:
    assert plain(float("nan")) is None
    assert plain({"a": [b"\xff", 1.5]}) == {"a": ["/w==", 1.5]}
    json.dumps(plain(pa.array([0], pa.timestamp("s"))[0].as_py()))
