"""Every recipe, run on a few rows that each of its rules has something to say about. Those on DataComp's metadata are in
test_published_rules.py; that all configs can be loaded and planned is in test_configs.py."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import pairsift
from pairsift.pipeline.config import load_config
from pairsift.pipeline.plan import make_plan
from pairsift.stages.base import Stage

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ENGLISH = "a cup of coffee on a wooden table in the morning"
Row = tuple[str | None, str | None]


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Callable[[int], str], tiny_blip: str) -> Callable[..., list[str]]:
    """The fates of a recipe's rows, in order: the rule that rejected each, its failure code, or its status.

    Each of its rules has to take a row, or the test would not know of it; but for those that `idle` names.
    """

    def go(name: str, path: Path, *overrides: str, output: str = "", idle: tuple[str, ...] = ()) -> list[str]:
        stages = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["stages"]
        changes = [f"input.path={path}", f"output={tmp_path / 'out'}", *overrides]
        for n, stage in enumerate(stages):
            changes += [f"stages.{n}.allow_private_addresses=true"] * (stage["use"] == "download")
            changes += [f"stages.{n}.model={tiny_clip(0)}"] * (stage["use"] == "embed")
            changes += [f"stages.{n}.text_model=null"] * ("text_model" in stage)  # the tiny model's own stands for it
            changes += [f"stages.{n}.model={tiny_blip}"] * (stage["use"] == "score.matching")
        plan = make_plan(load_config(CONFIGS / f"{name}.yaml", changes))
        pairsift.run(plan.config, runner="local", replace=True)
        found = fates_of(tmp_path / "out" / output)
        rules = {step.label for step in plan.steps if not isinstance(step.entry, Stage)}
        assert rules - set(found) == set(idle), "rules that took no row"
        return found

    return go


def fates_of(output: Path) -> list[str]:
    fates = pq.read_table(output / "fates.parquet").to_pylist()
    return [fate["rejected_by"] or fate["code"] or fate["status"] for fate in fates]


def at_threshold(found: list[str], output: Path, column: str, least: float, rule: str) -> list[str]:
    """What becomes of the rows that a looser run has kept, under the recipe's own threshold."""
    scores = pairsift.open(output).ledger()[column].to_pylist()
    return [rule if fate == "success" and score < least else fate for fate, score in zip(found, scores, strict=True)]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[list[Any]], Path]:
    def write(rows: list[Any], names: tuple[str, ...] = ("url", "caption")) -> Path:
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), tmp_path / "list.parquet")
        return tmp_path / "list.parquet"

    return write


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))[1])


@pytest.mark.parametrize(
    ("name", "pairs", "least"), [("laion400m", "url, caption", 0.3), ("laion2b-en", "url", 0.28)], ids=["400m", "2b"]
)
def test_laion(run: Any, listed: Any, web: Any, tmp_path: Path, name: str, pairs: str, least: float) -> None:
    web.files |= {"icon.jpg": jpeg(60, 40), "bitmap.jpg": bytes(cv2.imencode(".bmp", np.zeros((60, 60, 3), np.uint8))[1])}
    path = listed(
        [
            (web.url("coffee.jpg"), ENGLISH),
            (web.url("coffee.jpg"), ENGLISH),
            (web.url("coffee.jpg"), ENGLISH + " and a spoon"),
            ("data:image/png;base64,AAAA", ENGLISH),
            (web.url("drawing.svg"), ENGLISH),
            (web.url("rocket.jpg"), " cup\n"),
            (web.url("rocket.jpg?1"), "eine Tasse Kaffee auf einem Holztisch"),
            (web.url("none.jpg"), ENGLISH),
            (web.url("icon.jpg"), ENGLISH),
            (web.url("bitmap.jpg"), ENGLISH),
        ]
    )
    similarity = len(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["stages"]) - 1
    found = run(name, path, f"stages.{similarity}.keep=clip_similarity >= -1", idle=("similarity",))
    second = "success" if name == "laion400m" else "duplicate url"
    first = ["success", f"duplicate {pairs}", second, "URL", "URL", "caption", "English", "http_404"]
    assert found == [*first, "body", "body"]
    assert run(name, path) == at_threshold(found, tmp_path / "out", "clip_similarity", least, "similarity")


def test_laion2b_multi(run: Any, listed: Any, web: Any, tmp_path: Path) -> None:
    web.files["icon.jpg"] = jpeg(60, 40)
    path = listed(
        [
            (web.url("coffee.jpg"), "eine Tasse Kaffee auf einem alten Tisch aus Holz am Morgen"),
            (web.url("rocket.jpg"), "iPhone 12 Pro"),
            (web.url("moon.jpg"), ENGLISH),
            (web.url("coffee.jpg"), "une tasse de café sur une vieille table en bois"),
            (web.url("none.jpg"), "海滩上两只狗的照片和很好的天气"),
            (web.url("drawing.svg"), "eine Zeichnung einer Tasse auf einem Tisch"),
            (web.url("chelsea.jpg"), "chat"),
            (web.url("icon.jpg"), "une tasse de café sur une vieille table en bois"),
        ]
    )
    loose = "stages.9.keep=clip_similarity >= -1"
    multi = run("laion2b-multi", path, loose, output="multi", idle=("similarity",))
    nolang = fates_of(tmp_path / "out" / "nolang")
    rest = ["URL", "caption", "body"]
    assert multi == ["success", "output multi", "not English", "duplicate url", "http_404", *rest]
    assert nolang == ["output nolang", "success", "not English", "duplicate url", "http_404", *rest]
    kept = at_threshold(multi, tmp_path / "out" / "multi", "clip_similarity", 0.26, "similarity")
    assert run("laion2b-multi", path, output="multi")[0] == kept[0]


def test_relaion_safe(run: Any, listed: Any, tmp_path: Path) -> None:
    names = ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash", "punsafe", "pwatermark")
    rows = [
        ("http://a.example/1.jpg", "kept", 600, 400, 0.3, -7, 0.45, 0.9),
        ("http://a.example/2.jpg", "unsafe", 600, 400, 0.3, 2, 0.46, 0.1),
        ("http://a.example/3.jpg", "not known", 600, 400, 0.3, 3, None, 0.1),
        ("http://x.bad.example/4.jpg", "domain", 600, 400, 0.3, 4, 0.1, 0.1),
        ("http://a.example/5.jpg", "link", 600, 400, 0.3, 5, 0.1, 0.1),
    ]
    (tmp_path / "domains.txt").write_text("bad.example\n")
    (tmp_path / "md5.txt").write_text(hashlib.md5(rows[4][0].encode()).hexdigest() + "\n")
    files = [f"stages.2.path={tmp_path / 'domains.txt'}", f"stages.4.path={tmp_path / 'md5.txt'}"]
    found = run("relaion-safe", listed(rows, names), *files)
    assert found == ["success", "unsafe", "unsafe", "listed domain", "listed link"]
    released = pq.read_table(tmp_path / "out" / "release" / "00000.parquet").to_pylist()
    assert released == [pytest.approx(dict(zip(names, rows[0], strict=True)))]


def test_laion_aesthetic(run: Any, listed: Any, web: Any) -> None:
    names = ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "aesthetic", "punsafe", "pwatermark")
    rows = [
        (web.url("coffee.jpg"), "coffee", 600, 400, 0.3, 4.5, 0.49, 0.79),
        (web.url("rocket.jpg"), "rocket", 600, 400, 0.3, 4.49, 0.1, 0.1),
        (web.url("rocket.jpg"), "rocket", 600, 400, 0.3, 7.0, 0.5, 0.1),
        (web.url("rocket.jpg"), "rocket", 600, 400, 0.3, 7.0, 0.1, 0.8),
        (web.url("rocket.jpg"), "rocket", 600, 400, 0.3, 7.0, None, 0.1),
    ]
    unsafe = "punsafe < 0.5"
    assert run("laion-aesthetic", listed(rows, names)) == ["success", "aesthetic >= 4.5", unsafe, "pwatermark < 0.8", unsafe]
    assert web.paths() == ["coffee.jpg"], "rows that are out by their scores are not asked for"


def test_coyo(run: Any, listed: Any, web: Any) -> None:
    web.files |= {"small.jpg": jpeg(300, 180), "long.jpg": jpeg(700, 220), "wide.jpg": jpeg(660, 220)}
    web.files["plain.jpg"] = bytes(cv2.imencode(".jpg", np.zeros((300, 300, 3), np.uint8))[1])
    rows: list[Row] = [
        (web.url("coffee.jpg"), ENGLISH),
        (web.url("coffee.jpg?again"), ENGLISH),
        (web.url("rocket.jpg"), "a b c"),
        (web.url("rocket.jpg"), "a tasty coffee " * 70),
        (web.url("small.jpg"), ENGLISH + " small"),
        (web.url("long.jpg"), ENGLISH + " long"),
        (web.url("wide.jpg"), ENGLISH + " wide"),
        (web.url("coffee.jpg"), ENGLISH),
        (web.url("moon.jpg"), "der Mond über den Bergen bei Nacht"),
        (web.url("plain.jpg"), ENGLISH + " plain"),
        *((web.url(f"rocket.jpg?{n}"), "picture of a thing that everybody has") for n in range(11)),
    ]
    found = run("coyo700m", listed(rows))
    first = ["success", "duplicate phash, caption", "caption", "caption", "too_small", "aspect_ratio", "success"]
    second = ["duplicate url, caption", "English", "body"]
    assert found == first + second + ["more than 10 per caption"] * 11


def test_align(run: Any, listed: Any, web: Any) -> None:
    web.files |= {"small.jpg": jpeg(300, 200), "long.jpg": jpeg(660, 220), "nearly.jpg": jpeg(640, 220)}
    rows: list[Row] = [
        (web.url("coffee.jpg"), "a cup of coffee"),
        (web.url("rocket.jpg"), "image_tid 25&id mggqpuweqdpd"),
        (web.url("rocket.jpg"), "a cup"),
        *((web.url(name), "a cup of coffee") for name in ("small.jpg", "long.jpg", "nearly.jpg")),
        (web.url("coffee.jpg"), "a cup of coffee"),
        *((web.url("moon.jpg"), caption) for caption in ("a cup of coffee", "cup of coffee", "cup of tea")),
        *((web.url(f"rocket.jpg?{n}"), "a cup of tea") for n in range(11)),
    ]
    found = run("align", listed(rows), "stages.0.vocabulary=9", "stages.4.most=2")
    rare = "words outside the 9 most frequent of caption"
    first = ["success", rare, "caption", "too_small", "aspect ratio", "success"]
    second = ["duplicate url, caption", *["image with more than 1000 captions"] * 3]
    assert found == first + second + ["caption of more than 10 images"] * 11


def test_cc12m(run: Any, listed: Any, web: Any) -> None:
    pixels = cv2.imdecode(np.frombuffer(jpeg(500, 420), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    web.files |= {"large.jpg": jpeg(1000, 420), "small.jpg": jpeg(500, 400), "long.jpg": jpeg(1060, 420)}
    web.files["not.jpg"] = bytes(cv2.imencode(".png", pixels)[1])
    rows: list[Row] = [
        (web.url("large.jpg"), "a cup of coffee on the table"),
        (web.url("large.jpg?1"), "coffee coffee coffee cup"),
        (web.url("large.jpg?2"), "two words"),
        *((web.url(name), "a cup of coffee") for name in ("small.jpg", "long.jpg", "not.jpg")),
        (web.url("large.jpg"), "a cup of coffee on the table"),
    ]
    found = run("cc12m", listed(rows))
    assert found == ["success", "caption", "caption", "too_small", "aspect_ratio", "JPEG", "duplicate url, caption"]


def test_metaclip(run: Any, listed: Any, web: Any, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps(["coffee", "rocket", "wooden table"]))
    rows: list[Row] = [
        (web.url("rocket.jpg"), "a rocket on the launch pad, at night"),
        (web.url("moon.jpg"), "the surface of the moon as seen from above"),
        (web.url("rocket.jpg?2"), "eine Rakete auf der Startrampe bei Nacht"),
        (web.url("rocket.jpg"), "a rocket on the launch pad, at night"),
        *((web.url(f"coffee.jpg?{n}"), f"a cup of coffee, number {n} of them") for n in range(60)),
    ]
    found = run("metaclip", listed(rows), f"stages.3.path={tmp_path / 'metadata.json'}", "stages.5.per_entry=10")
    assert found[:4] == ["success", "no query matches", "English", "duplicate url, caption"]
    assert set(found[4:]) == {"success", "balance to 10 per entry of entries"}
    assert 2 <= found[4:].count("success") <= 20


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A dataset as img2dataset writes it, in two tars; and its images by caption."""
    samples = [
        ("a dog on a beach", 0.30, 640, 480),
        ("a dog in the snow", 0.27, 640, 480),
        ("a dog in a car", 0.31, 640, 200),
        ("a dog", 0.4, 640, 480),
        ("IMG_0042.JPG", 0.4, 640, 480),
        ("a dog on a sofa", 0.28, 600, 200),
    ]
    (tmp_path / "old").mkdir()
    images = {}
    for number in range(2):
        with tarfile.open(tmp_path / "old" / f"{number:05}.tar", "w") as tar:
            for n, (caption, similarity, width, height) in enumerate(samples):
                data = jpeg(100, 80, seed=n)
                images[caption] = data
                facts = {"caption": caption, "url": f"http://a/{n}.jpg", "similarity": similarity, "sha256": f"{n:064x}"}
                facts |= {"original_width": width, "original_height": height}
                for name, member in (("jpg", data), ("json", json.dumps(facts).encode()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{number:05}{n:04}.{name}")
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
    return tmp_path / "old", images


def test_filter_existing_webdataset(run: Any, dataset: tuple[Path, dict[str, bytes]]) -> None:
    found = run("filter-existing-webdataset", dataset[0])
    assert found == ["success", "similarity >= 0.28", "size", "caption", "caption", "success"] * 2


def test_rescore_existing(run: Any, dataset: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    old = ["success", "old score", "success", "success", "success", "success"]
    loose = run("rescore-existing", dataset[0], "stages.3.keep=l14_clip_similarity >= -1", idle=("new score",))
    assert loose == old * 2
    members = members_of(tmp_path / "out")
    assert {members[f"{key}.txt"].decode(): members[f"{key}.jpg"] for key in keys_of(members)} == {
        caption: data for caption, data in dataset[1].items() if caption != "a dog in the snow"
    }
    assert "000000000" in keys_of(members), "samples keep their names"
    facts = json.loads(members["000000000.json"])
    assert facts["similarity"] == 0.30
    assert -1 <= facts["l14_clip_similarity"] <= 1
    kept = at_threshold(loose, tmp_path / "out", "l14_clip_similarity", 0.24, "new score")
    assert run("rescore-existing", dataset[0]) == kept


def test_semdedup(run: Any, photos: dict[str, bytes], tmp_path: Path) -> None:
    """Two of a kind, a placeholder under many captions, an image of the evaluation set, and one that is much like another."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "evaluation").mkdir()
    tested, *names = sorted(photos)
    (tmp_path / "evaluation" / "tested.jpg").write_bytes(photos[tested])
    pixels = cv2.imdecode(np.frombuffer(photos[names[0]], np.uint8), cv2.IMREAD_COLOR)
    smaller = bytes(cv2.imencode(".jpg", cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))[1])
    images = [photos[names[0]], photos[tested], smaller, photos[names[0]], photos[names[1]], *[jpeg(100, 80)] * 21]
    with tarfile.open(tmp_path / "pool" / "00000.tar", "w") as tar:
        for n, data in enumerate(images):
            for extension, member in (("jpg", data), ("txt", f"caption {n}".encode())):
                info = tarfile.TarInfo(f"{n:05}.{extension}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    reference = f"stages.4.reference={tmp_path / 'evaluation'}"
    strict = "image_embedding above 0.999999"  # the tiny network finds any two photos alike
    found = run("semdedup", tmp_path / "pool", reference, "stages.8.similarity=0.999999", idle=(strict,))
    first = ["success", "evaluation", "phash within 31 bits", "duplicate image_sha256", "success"]
    assert found == first + ["placeholder"] * 21
    loose = run("semdedup", tmp_path / "pool", reference, "stages.8.similarity=-1")
    assert sorted([loose[0], loose[4]]) == ["image_embedding above -1", "success"]
    assert [loose[1:4], loose[5:]] == [found[1:4], found[5:]]


def test_dfn(run: Any, photos: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    samples = [(f"{n:032x}", caption, n) for n, caption in enumerate(["a cup", "a rocket", "a wall", "the moon"] * 5)]
    with tarfile.open(tmp_path / "pool" / "00000.tar", "w") as tar:
        for _, caption, n in samples:
            for name, data in (("jpg", jpeg(60, 40, seed=n)), ("txt", caption.encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"{n:09}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows = [{"key": f"{n:09}", "status": "success", "url": "http://a", "caption": text, "uid": uid} for uid, text, n in samples]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool" / "00000.parquet")
    found = run("dfn", tmp_path / "pool")
    kept = [n for n, fate in enumerate(found) if fate == "success"]
    assert len(kept) == 4  # of 20 the one at place 3 is the threshold
    assert np.load(tmp_path / "out" / "release" / "subset.npy").tolist() == [(0, n) for n in kept]


def test_capfilt(run: Any, photos: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("coffee.jpg", "rocket.jpg"):
        (tmp_path / name).write_bytes(photos[name])
    rows = [
        {"file": "coffee.jpg", "captions": ["IMG_0042", "a cup of coffee"]},
        {"file": "rocket.jpg", "captions": ["a rocket"]},
        {"file": "none.jpg", "captions": ["nothing"]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "captions.parquet")
    found = run("capfilt", tmp_path / "captions.parquet", f"input.folder={tmp_path}")
    scores = pairsift.open(tmp_path / "out").ledger()["match_probability"].to_pylist()
    assert found == ["success" if score >= 0.5 else "does not fit" for score in scores[:3]] + ["missing_image"]
    assert set(found) == {"success", "does not fit", "missing_image"}


def members_of(output: Path) -> dict[str, bytes]:
    """The members of all shards, by name."""
    found: dict[str, bytes] = {}
    for shard in sorted((output / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def keys_of(members: dict[str, bytes]) -> set[str]:
    return {name.split(".")[0] for name in members}


def test_re_cut(run: Any, dataset: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    assert run("re-cut", dataset[0], "shards.rows=4") == ["success"] * 6 + ["duplicate sha256, caption"] * 6
    packed = members_of(tmp_path / "out")
    assert {packed[f"{key}.txt"].decode(): packed[f"{key}.jpg"] for key in keys_of(packed)} == dataset[1]
    assert json.loads((tmp_path / "out" / "shards" / "sizes.json").read_text()) == {"00000.tar": 4, "00001.tar": 2}
