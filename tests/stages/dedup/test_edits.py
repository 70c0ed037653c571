"""Real photos, edited as the web edits them: found again, and not taken for each other. docs/dedup.md has the whole table."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pairsift.stages.dedup.perceptual import Perceptual
from pairsift.stages.image.phash import ImagePhash

PHOTOS = 60
LEAST = {  # the share of photos that is found again, of 256 bits within 40; measured on 2,000 photos, less 0.1
    "JPEG, quality 75": 0.98,
    "JPEG, quality 30": 0.98,
    "WebP, quality 50": 0.98,
    "half the size": 0.98,
    "a third of the size": 0.98,
    "1.5 times the size": 0.98,
    "10 % wider": 0.98,
    "blur, sigma 1.5 px": 0.98,
    "noise, sigma 8": 0.98,
    "grey": 0.98,
    "brighter by 30": 0.9,
    "contrast up by 30 %": 0.9,
    "gamma 0.7": 0.9,
    "saturation up by 50 %": 0.9,
    "watermark in a corner": 0.75,
    "2 % cropped": 0.9,
    "white border, 2 %": 0.6,
    "rotated by 1 degree": 0.9,
    "5 % cropped": 0.25,
}


def _edits() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "edited_images.py"
    spec = importlib.util.spec_from_file_location("edited_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.EDITS
    return found


def _hashes(images: list[bytes]) -> list[str | None]:
    with ImagePhash().open() as transform:
        table: Any = transform(pa.table({"image": pa.array(images, pa.large_binary())}))
    found: list[str | None] = table["phash"].to_pylist()
    return found


@pytest.fixture(scope="module")
def originals(test_data: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((test_data / "coco" / "images").glob("*.jpg"))[:PHOTOS]]


def test_edits_are_found_again_and_photos_are_kept_apart(originals: list[bytes], found: Callable[..., pa.Table]) -> None:
    photos = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in originals]
    edits = {name: edit for name, edit in _edits().items() if name in LEAST}
    assert len(edits) == len(LEAST) >= 12
    hashes = _hashes(originals)
    for name, edit in edits.items():
        gone = found(Perceptual(distance=40), phash=[*hashes, *_hashes([edit(photo) for photo in photos])])
        keepers = {row["ordinal"] - 10: row["duplicate_of"] - 10 for row in gone.to_pylist()}
        right = {n: keeper for n, keeper in keepers.items() if n == keeper + PHOTOS}
        assert right == keepers, f"{name}: different photos are taken for one"
        assert len(right) >= LEAST[name] * PHOTOS, name
