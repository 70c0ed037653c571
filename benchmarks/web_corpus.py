"""A folder of images like those that a list of web URLs leads to, and nginx to serve it on loopback.

The photos are real (COCO, at 300 pixels), cropped, enlarged and given grain, so that their bytes per pixel are those of web
photos. Every file follows from its number alone: two machines with the same OpenCV make the same corpus.
"""

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

MEDIAN_WIDTH, SIGMA, NARROWEST, WIDEST = 640, 0.5, 150, 4000  # pixels; widths are lognormal
ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4)  # width / height
JPEG_SHARE, PNG_SHARE = 0.88, 0.07  # the rest is WebP
EXIF_SHARE = 0.2  # of the JPEGs; a guess: most sites strip it
GRAIN = 4.0  # standard deviation, grey levels

_NGINX = """daemon off; worker_processes 2; pid {prefix}/pid; error_log {prefix}/errors warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 1000000; open_file_cache max=10000;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  types {{ image/jpeg jpg; image/png png; image/webp webp; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {root};
    location = /requests {{ stub_status; }}
  }}
}}
"""


def build(folder: Path, photos: Path, files: int) -> list[Path]:
    """The corpus' files in order, made where they are missing. `photos`: a folder of JPEGs."""
    sources = sorted(photos.rglob("*.jpg"))
    if not sources:
        raise SystemExit(f"no photos in {photos}: set PAIRSIFT_TEST_DATA to a folder that holds coco/*.jpg")
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.stem: path for path in folder.iterdir() if not path.name.endswith(".part")}
    missing = [number for number in range(files) if f"{number:06d}" not in there]
    if missing:
        print(f"making {len(missing)} images in {folder}", flush=True)
        with ProcessPoolExecutor() as pool:
            made = pool.map(partial(_make, folder, sources), missing, chunksize=16)
            there.update((path.stem, path) for path in made)
    return [there[f"{number:06d}"] for number in range(files)]


def _make(folder: Path, sources: list[Path], number: int) -> Path:
    cv2.setNumThreads(1)
    dice, grain = random.Random(number), np.random.default_rng(number)
    width = round(min(max(dice.lognormvariate(np.log(MEDIAN_WIDTH), SIGMA), NARROWEST), WIDEST))
    height = max(1, round(width / dice.choice(ASPECTS)))
    pixels = cv2.imread(str(sources[number % len(sources)]), cv2.IMREAD_COLOR)
    pixels = cv2.resize(_crop(pixels, width / height), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = pixels + grain.normal(0, GRAIN, (height, width, 1))
    pixels = noisy.clip(0, 255).astype(np.uint8)
    draw = dice.random()
    if draw < JPEG_SHARE:
        name, data = "jpg", cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, dice.randint(75, 95)])[1].tobytes()
        if dice.random() < EXIF_SHARE:
            data = data[:2] + _exif_segment() + data[2:]
    elif draw < JPEG_SHARE + PNG_SHARE:
        name, data = "png", cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()
    else:
        name, data = "webp", cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, dice.randint(75, 90)])[1].tobytes()
    path = folder / f"{number:06d}.{name}"
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").rename(path)
    return path


def _crop(pixels: np.ndarray, aspect: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    wanted_width, wanted_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - wanted_width) // 2, (height - wanted_height) // 2
    return pixels[top : top + wanted_height, left : left + wanted_width]


def _exif_segment() -> bytes:
    tags = Image.Exif()
    tags.update({0x010F: "Camera works", 0x0110: "Model 7", 0x0131: "Darkroom 3.1", 0x0132: "2019:05:04 10:11:12"})
    exposure = {0x829A: (1, 250), 0x829D: (28, 10), 0x8827: 200, 0x920A: (50, 1), 0x9003: "2019:05:04 10:11:12"}
    tags.get_ifd(0x8769).update(exposure)
    body = tags.tobytes()
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def nginx(root: Path, prefix: Path) -> Iterator[str]:
    """Serve `root` with an nginx of our own; yields the base URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    prefix.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = prefix / "nginx.conf"
    config.write_text(_NGINX.format(prefix=prefix, port=port, root=root))
    server = subprocess.Popen([program, "-p", str(prefix), "-e", str(prefix / "errors"), "-c", str(config)])
    try:
        _wait(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit("nginx did not start; its log is the file `errors` in its prefix")
