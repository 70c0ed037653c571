"""The photographs of the demo: sample images that scikit-image and scikit-learn carry in their packages.

They are found as files; neither package is imported (that would cost seconds and is not needed).
"""

from importlib.util import find_spec
from pathlib import Path

import cv2

from pairsift.pipeline.demo.server import Answer
from pairsift.stages.base import ConfigError

LONG_SIDE = 640  # pixels: most photos on web pages are about this large
JPEG_QUALITY = 90

# Only photographs (microscopes and telescopes included), no drawings. page.png stays out: each decode of its broken colour
# profile makes libpng print a warning.
_PHOTOS = {
    "skimage": (
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/cell.png",
        "data/chelsea.png",
        "data/clock_motion.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
        "data/microaneurysms.png",
        "data/moon.png",
        "data/motorcycle_left.png",
        "data/motorcycle_right.png",
        "data/retina.jpg",
        "data/rocket.jpg",
        "data/text.png",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}


def load() -> dict[str, Answer]:
    """All photos as a web server would give them: file name, such as "coffee.jpg" → JPEG. The same bytes every time.

    Raises ConfigError where a package or one of its photos is missing.
    """
    paths = [_find(package, file) for package, files in _PHOTOS.items() for file in files]
    return {f"{path.stem}.jpg": Answer(_jpeg(path)) for path in paths}


def _find(package: str, file: str) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, file)
        if path.is_file():
            return path
    raise ConfigError(f"the demo needs the sample photo {file} of the package {package}: pip install 'pairsift[demo]'")


def _jpeg(path: Path) -> bytes:
    """A JPEG file as it is; a PNG encoded as JPEG, grey ones with one channel, not larger than `LONG_SIDE`."""
    if path.suffix == ".jpg":
        return path.read_bytes()
    pixels = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
    if pixels is None:
        raise ConfigError(f"the demo's photo {path} cannot be read: pip install --force-reinstall 'pairsift[demo]'")
    height, width = pixels.shape[:2]
    scale = LONG_SIDE / max(width, height)
    if scale < 1:
        pixels = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
