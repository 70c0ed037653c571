"""Rows held against reference sets."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.dedup import against
from pairsift.stages.dedup.against import Against, ngrams, plain
from pairsift.stages.image.phash import ImagePhash

Curate = Callable[..., Any]
Listing = Callable[..., dict[str, Any]]


def parquet(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def looked(values: Any, **parameters: Any) -> list[tuple[float | None, str | None]]:
    rule = Against(**{"by": "column", **parameters})
    rule.check()
    with rule.open() as transform:
        found: Any = transform(pa.table({"column": values}))
    assert found.schema == rule.writes()
    return list(zip(found["reference_nearness"].to_pylist(), found["reference_name"].to_pylist(), strict=True))


def lists(vectors: Any, kind: Any = np.float16, mask: Any = None) -> pa.Array:
    flat = pa.array(np.asarray(vectors, kind).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, np.shape(vectors)[1], mask=None if mask is None else pa.array(mask))


def test_equal_values_and_the_first_reference_that_has_them(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "a.parquet", column=["x", None, "y"])
    parquet(tmp_path / "set" / "b.parquet", column=["y", "z"])
    found = looked(["z", "y", "q", None, "X", "x"], reference=str(tmp_path / "set"))
    assert found == [(1, "b.parquet:1"), (1, "a.parquet:2"), (0, None), (None, None), (0, None), (1, "a.parquet:0")]
    numbers = parquet(tmp_path / "n.parquet", other=[1, 2])
    assert looked([2, 3, None], reference=numbers, reference_column="other") == [(1, "n.parquet:1"), (0, None), (None, None)]


def test_captions_that_differ_in_case_punctuation_and_width(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("A dog, on the BEACH!\n\n\u732b\u3068\u72ac\n\u0939\u093f\u0928\u094d\u0926\u0940\n", encoding="utf-8")
    captions = [
        "a dog on  the beach",
        "\uff21 dog on the beach.",
        "a dog on the beaches",
        "\u732b\u3068\u72ac\u3002",
        None,
        "",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
    ]
    found = looked(captions, reference=str(path), match="text")
    assert [nearness for nearness, _ in found] == [1, 1, 0, 1, None, 0, 1]
    assert found[3][1] == "captions.txt:2"
    assert plain("  It's\t5 o'clock\u2026 ") == "it s 5 o clock"


def test_runs_of_words(tmp_path: Path) -> None:
    reference = " ".join(f"w{n}" for n in range(20))
    path = tmp_path / "captions.txt"
    path.write_text(f"{reference}\nshort one\n")
    rows = [
        "before " + " ".join(f"w{n}" for n in range(3, 16)) + " after",  # 13 words of it, in 15
        " ".join(f"w{n}" for n in range(3, 15)) + " after all",  # 12 of them
        "Short one.",
        "a short one",
        None,
        "!",
        reference,
    ]
    found = looked(rows, reference=str(path), match="ngrams")
    assert [nearness for nearness, _ in found] == pytest.approx([1 / 3, 0, 1, 0, None, 0, 1])
    assert found[2][1] == "captions.txt:1"
    assert len(ngrams(reference, 13)) == 8
    assert ngrams("?", 3) == []


@pytest.mark.parametrize("words", [1, 4])
def test_the_nearest_hash_is_that_of_all(words: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "_ROWS", 37)
    monkeypatch.setattr(against, "_PRODUCTS", 100)
    rng = np.random.default_rng(0)
    known, rows = (rng.integers(0, 2**64, (count, words), dtype=np.uint64) for count in (200, 50))
    rows[:20] = known[100:120] ^ np.uint64(0b1011)
    texts = [["".join(f"{word:016x}" for word in row) for row in part] for part in (known.tolist(), rows.tolist())]
    path = parquet(tmp_path / "hashes.parquet", phash=[*texts[0], None, texts[0][110]])
    found = looked([None, *texts[1]], reference=path, reference_column="phash", match="bits")
    bits = [np.unpackbits(part.view(np.uint8), axis=1).astype(int) for part in (known, rows)]
    far = (bits[1][:, None] != bits[0][None]).sum(axis=2)
    assert found[0] == (None, None)
    assert [nearness for nearness, _ in found[1:]] == far.min(axis=1).tolist()
    assert [name for _, name in found[1:]] == [f"hashes.parquet:{n}" for n in far.argmin(axis=1)]
    with pytest.raises(ConfigError, match="bits, the reference"):
        looked(["0" * 16 * (5 - words)], reference=path, reference_column="phash", match="bits")


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_the_nearest_vector_is_that_of_all(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "_ROWS", 37)
    monkeypatch.setattr(against, "_PRODUCTS", 100)
    rng = np.random.default_rng(0)
    known, rows = rng.normal(size=(200, 8)).astype(np.float32), rng.normal(size=(60, 8)).astype(np.float16)
    known[3], rows[4] = 0, 0
    if kind == "npy":
        np.save(tmp_path / "set.npy", known)
    else:
        parquet(tmp_path / "set.parquet", column=pa.array(known.tolist(), pa.list_(pa.float32())))
    mask = [n == 5 for n in range(60)]
    found = looked(lists(rows, mask=mask), reference=str(tmp_path / f"set.{kind}"), match="cosine")
    unit = [
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9)
        for part in (known.astype(float), rows.astype(float))
    ]
    cosines = unit[1] @ unit[0].T
    assert found[4] == found[5] == (None, None)
    good = [n for n in range(60) if n not in (4, 5)]
    np.testing.assert_allclose([found[n][0] for n in good], cosines[good].max(axis=1), atol=1e-6)
    assert [found[n][1] for n in good] == [f"set.{kind}:{n}" for n in cosines[good].argmax(axis=1)]
    with pytest.raises(ConfigError, match="the reference's vectors have 8 numbers"):
        looked(lists(np.ones((2, 9))), reference=str(tmp_path / f"set.{kind}"), match="cosine")


def test_reference_images_are_hashed_here(tmp_path: Path, photos: dict[str, bytes]) -> None:
    names = sorted(photos)[:4]
    for name in names:
        (tmp_path / name).write_bytes(photos[name])
    (tmp_path / "broken.jpg").write_bytes(b"damaged")
    pixels = cv2.imdecode(np.frombuffer(photos[names[2]], np.uint8), cv2.IMREAD_COLOR)
    edited = bytes(cv2.imencode(".jpg", cv2.resize(pixels, None, fx=0.7, fy=0.7), [cv2.IMWRITE_JPEG_QUALITY, 60])[1])
    other = photos[sorted(photos)[5]]
    with ImagePhash().open() as transform:
        hashed: Any = transform(pa.table({"image": pa.array([photos[names[0]], edited, other], pa.large_binary())}))
    found = looked(hashed["phash"], reference=str(tmp_path), match="bits")
    assert found[0] == (0, names[0])
    assert found[1][1] == names[2]
    near, far = found[1][0], found[2][0]
    assert near is not None
    assert near < 20
    assert far is not None
    assert far > 60
    sha256 = [hashlib.sha256(photos[name]).hexdigest() for name in names]
    assert looked([sha256[1], "0" * 64], reference=str(tmp_path)) == [(1, names[1]), (0, None)]


def test_what_it_depends_on_is_what_the_files_hold(tmp_path: Path) -> None:
    def identity(path: str, **parameters: Any) -> str:
        return Against(reference=path, by="url", **parameters).identity()

    one = parquet(tmp_path / "a" / "set.parquet", url=["x"])
    moved = parquet(tmp_path / "b" / "set.parquet", url=["x"])
    before = identity(one)
    assert identity(moved) == before
    assert "set.parquet" not in str(Against(reference=one, by="url").science())
    parquet(tmp_path / "a" / "set.parquet", url=["y"])
    assert identity(one) != before
    assert identity(one, match="bits") != identity(one)


def test_an_earlier_runs_output_is_a_reference(tmp_path: Path, listing: Listing, curate: Curate) -> None:
    source = listing([("http://a/1", "one"), ("http://a/2", "two")], name="old.parquet")
    pairsift.run({"input": source, "output": str(tmp_path / "earlier"), "stages": [], "release": {}}, runner="local")
    known = {"use": "dedup.against", "reference": str(tmp_path / "earlier"), "by": "url", "reference_column": "URL"}
    keep = {"use": "filter.where", "keep": "reference_nearness < 1", "name": "seen before"}
    later = curate(listing([("http://a/2", "new words"), ("http://a/3", "three")]), known, keep, output="later")
    assert later.fates()["status"].to_pylist() == ["rejected", "success"]
    assert later.fates()["rejected_by"].to_pylist() == ["seen before", None]


@pytest.mark.parametrize(
    ("name", "match", "message"),
    [
        ("none.parquet", "exact", "nothing matches"),
        ("other.parquet", "exact", "has no column 'column', but other"),
        ("other.parquet", "cosine", "has no column 'column'"),
        ("nulls.parquet", "exact", "hold no 'column' that is not null"),
        ("texts.parquet", "cosine", "is string, not lists of floats"),
        ("texts.parquet", "bits", "a hash has 16, 32, 48 or 64 hex digits"),
        ("lines.txt", "cosine", "for vectors of 'column' this kind of file says nothing"),
        ("ragged.parquet", "cosine", "holds no lists of 2 floats"),
    ],
)
def test_what_is_wrong_with_a_reference_is_told(name: str, match: Any, message: str, tmp_path: Path) -> None:
    parquet(tmp_path / "other.parquet", other=[1])
    parquet(tmp_path / "nulls.parquet", column=pa.array([None], pa.string()))
    parquet(tmp_path / "texts.parquet", column=["x"])
    parquet(tmp_path / "ragged.parquet", column=[[1.0, 2.0], [3.0]])
    (tmp_path / "lines.txt").write_text("x\n")
    with pytest.raises(ConfigError, match=message):
        looked(["x"], reference=str(tmp_path / name), match=match)
