import subprocess
import sys

import cv2
import numpy as np
import pytest

from pairsift.pipeline.demo import photos
from pairsift.pipeline.demo.server import Answer
from pairsift.stages.base import ConfigError


def decode(answer: Answer) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_ANYCOLOR)


def test_there_are_enough_different_photos_and_each_is_a_jpeg_that_decodes():
    files = photos.load()
    assert len(files) >= 18
    assert len({answer.body for answer in files.values()}) == len(files)
    for name, answer in files.items():
        assert name.endswith(".jpg")
        assert answer.content_type == "image/jpeg"
        assert answer.body.startswith(b"\xff\xd8\xff")
        assert min(decode(answer).shape[:2]) >= 100, name


def test_large_pngs_are_made_smaller_and_grey_ones_stay_grey():
    files = photos.load()
    assert decode(files["motorcycle_left.jpg"]).shape == (432, 640, 3)  # from 741 x 500
    assert decode(files["coffee.jpg"]).shape == (400, 600, 3)
    assert decode(files["camera.jpg"]).shape == (512, 512)


def test_the_bytes_are_the_same_every_time():
    assert photos.load() == photos.load()


def test_the_packages_are_not_imported():
    code = (
        "import sys; from pairsift.pipeline.demo import photos; photos.load(); "
        "sys.exit(bool({'skimage', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("package", ["no_such_package_of_photos", "json"])
def test_a_missing_package_or_photo_says_what_to_install(package, monkeypatch):
    monkeypatch.setattr(photos, "_PHOTOS", {package: ("data/astronaut.png",)})
    with pytest.raises(ConfigError, match=r"astronaut\.png .* pip install 'pairsift\[demo\]'$"):
        photos.load()
