"""Files of other people's datasets are looked at before they are decoded for a model, as downloads are."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "download"))

from hostile import images

from pairsift.stages.pixels.rgb import decode_rgb


@pytest.mark.parametrize("name", images.REFUSED)
def test_what_a_download_refuses_is_not_decoded(name: str) -> None:
    assert decode_rgb(images.picture(name)) is None


@pytest.mark.parametrize("name", images.ACCEPTED)
def test_what_a_download_takes_is_decoded_as_opencv_does(name: str) -> None:
    data = images.picture(name)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    assert np.array_equal(decode_rgb(data), cv2.imdecode(np.frombuffer(data, np.uint8), flags)[:, :, ::-1])


def test_nothing_is_no_image() -> None:
    assert decode_rgb(b"") is None
