"""Real img2dataset and ours on one corpus from one server: what is the same, and what is not on purpose.

The oracle is img2dataset's own `Downloader`, which fetches, checks, resizes, hashes and writes shards; only its command and
its pool of processes are left out here, as they take seconds to start. tests/pipeline/test_cli_download.py runs them too.
"""

import asyncio
import hashlib
import itertools
import math
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from img2dataset.writer import WebDatasetSampleWriter

from pairsift.stages.base import ConfigError
from pairsift.stages.download import Download
from pairsift.stages.download.img2dataset_engine import img2dataset
from pairsift.stages.fates import Failure

MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
ENCODINGS = {"jpg": 95, "png": 3, "webp": 90}  # format → quality
SIZES = ("width", "height", "original_width", "original_height")
COLUMNS = (*SIZES, "exif", "sha256")

# Rows that end otherwise with us, how they do, and how with img2dataset.
ON_PURPOSE = {
    "empty.jpg": (Failure.EMPTY_BODY, "failed_to_resize"),  # nothing came, so there was nothing to resize
    "photo.ppm": (Failure.NOT_AN_IMAGE, "success"),  # OpenCV reads formats that we do not take
}

Row = dict[str, Any]
DEFAULTS: Row = {"image_size": 64, "resize_mode": "border", "resize_only_if_bigger": False}


def encoded(extension: str, pixels: np.ndarray, *parameters: int) -> bytes:
    return bytes(cv2.imencode(extension, pixels, parameters)[1])


@pytest.fixture(scope="module")
def corpus(photos: dict[str, bytes]) -> dict[str, bytes]:
    """Good and bad files. The photographs are larger and smaller than the sizes asked for, upright and broad."""
    files = dict(sorted(photos.items())[:6])
    photo = cv2.imdecode(np.frombuffer(next(iter(files.values())), np.uint8), cv2.IMREAD_COLOR)
    photo = cv2.resize(photo, (301, 203), interpolation=cv2.INTER_AREA)
    files["broad.jpg"] = encoded(".jpg", photo[:80], cv2.IMWRITE_JPEG_QUALITY, 80)
    files["upright.jpg"] = encoded(".jpg", photo[:, :77], cv2.IMWRITE_JPEG_QUALITY, 92)
    files["progressive.jpg"] = encoded(".jpg", photo, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    files["photo.png"] = encoded(".png", photo)
    files["photo.webp"] = encoded(".webp", photo, cv2.IMWRITE_WEBP_QUALITY, 80)
    files["lossless.webp"] = encoded(".webp", photo, cv2.IMWRITE_WEBP_QUALITY, 101)
    files["small.jpg"] = encoded(".jpg", cv2.resize(photo, (40, 31)))
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    files["grey.jpg"] = encoded(".jpg", grey)
    files["grey.png"] = encoded(".png", grey)
    files["deep.png"] = encoded(".png", photo.astype(np.uint16) * 257)
    alpha = np.dstack([photo, grey])
    files["alpha.png"] = encoded(".png", alpha)
    files["alpha.webp"] = encoded(".webp", alpha)
    files["exif.jpg"] = with_exif(files["broad.jpg"])
    files["tiny.png"] = encoded(".png", photo[:1, :1])
    files["thin.png"] = encoded(".png", photo[:1])
    files["photo.ppm"] = encoded(".ppm", photo)
    files["page.jpg"] = b"<!DOCTYPE html><html><body>Not here any more</body></html>"
    files["empty.jpg"] = b""
    for name in ("broad.jpg", "progressive.jpg", "photo.png", "photo.webp"):
        files[f"half-{name}"] = files[name][: len(files[name]) // 2]
    return files


def with_exif(jpeg: bytes) -> bytes:
    """The same photograph with two EXIF tags: Make and Software, both ASCII."""
    values = [(0x010F, b"Camera & Sons\0"), (0x0131, b"  spaced  \0")]
    start, entries, data = 8 + 2 + 12 * len(values) + 4, b"", b""
    for tag, text in values:
        entries += tag.to_bytes(2, "big") + b"\0\2" + len(text).to_bytes(4, "big") + (start + len(data)).to_bytes(4, "big")
        data += text
    tiff = b"MM\0*\0\0\0\x08" + len(values).to_bytes(2, "big") + entries + b"\0\0\0\0" + data
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


@pytest.fixture(scope="module")
def site(corpus: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.strip("/")
            code = int(name) if name.isdigit() else 200 if name in corpus else 404
            body = corpus.get(name, b"")
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/302")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *args: object) -> None:
            pass  # a client that has closed its connection

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def names(corpus: dict[str, bytes]) -> list[str]:
    return [*corpus, "missing.jpg", "403", "410", "418", "500", "302"]


@pytest.fixture
def theirs(site: str, tmp_path: Path) -> Callable[..., dict[str, Row]]:
    """Name → what img2dataset makes of it: the columns of its shard's Parquet, and `image`, the bytes from its tar."""

    def run(
        names: list[str], boxes: list[Any] | None = None, hashes: list[str] | None = None, **options: Any
    ) -> dict[str, Row]:
        table = pa.table({"url": [f"{site}/{name}" for name in names]})
        if boxes is not None:
            table = table.append_column("boxes", pa.array(boxes))
        if hashes is not None:
            table = table.append_column("sha256", pa.array(hashes))
        with pa.OSFile(str(tmp_path / "0.feather"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        blurrer = img2dataset().blurrer.BoundingBoxBlurrer() if boxes is not None else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            img2dataset().downloader.Downloader(
                sample_writer_class=WebDatasetSampleWriter,
                resizer=img2dataset().resizer.Resizer(**{**DEFAULTS, **options}, blurrer=blurrer),
                thread_count=8,
                save_caption=False,
                extract_exif=True,
                output_folder=str(tmp_path),
                column_list=table.column_names,
                timeout=5,
                number_sample_per_shard=1000,
                oom_shard_count=5,
                compute_hash="sha256",
                verify_hash_type=None if hashes is None else "sha256",
                encode_format=options.get("encode_format", "jpg"),
                retries=0,
                user_agent_token=None,
                disallowed_header_directives=None,
                blurring_bbox_col=None if boxes is None else "boxes",
            ).download_shard((0, str(tmp_path / "0.feather")))
        images = {}
        with tarfile.open(tmp_path / "00000.tar") as tar:
            for member in tar:
                key, extension = member.name.split(".")
                if extension != "json":
                    images[key] = tar.extractfile(member).read()  # type: ignore[union-attr]
        rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
        return {row["url"].removeprefix(f"{site}/"): {**row, "image": images.get(row["key"])} for row in rows}

    return run


# Each with what makes its results comparable.
ENGINES: dict[str, Row] = {
    "pairsift": {"orientation": "ignore", "decode": "exact"},
    "img2dataset": {"orientation": "ignore", "robots": False, "tdm_reservation": False, "content_usage": False},
}


@pytest.fixture
def ours(site: str) -> Callable[..., dict[str, Row]]:
    """Name → the columns of our stage."""

    def run(
        names: list[str], boxes: list[Any] | None = None, hashes: list[str] | None = None, **options: Any
    ) -> dict[str, Row]:
        settings: dict[str, Any] = {"image_size": 64, "retries": 0, "timeout": 5, "allow_private_addresses": True, **options}
        table = pa.table({"url": [f"{site}/{name}" for name in names]})
        if boxes is not None:
            table = table.append_column("boxes", pa.array(boxes))
            settings["bbox_col"] = "boxes"
        if hashes is not None:
            table = table.append_column("expected", pa.array(hashes))
            settings["verify_hash"] = ["expected", "sha256"]
        stage = Download.model_validate(settings)
        stage.check()

        async def go(transform: Any) -> pa.Table:
            return await transform(table)

        with stage.open() as transform:
            rows = asyncio.run(go(transform)).to_pylist()
        return {name: {**row, "status": status(row)} for name, row in zip(names, rows, strict=True)}

    return run


def status(row: Row) -> str:
    return "success" if row["failure"] is None else Failure(row["failure"]).status.value


def exactly(mode: str, encoding: str) -> Row:
    return {"resize_mode": mode, "encode_format": encoding, "encode_quality": ENCODINGS[encoding]}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_encoding(mode: str, encoding: str, theirs: Any, ours: Any, names: list[str]) -> None:
    expected, options = theirs(names, **exactly(mode, encoding)), exactly(mode, encoding)
    same_engine = ours(names, engine="img2dataset", **ENGINES["img2dataset"], **options)
    for name in names:
        assert same_engine[name]["failure_detail"] == expected[name]["error_message"], name
        assert_same(name, same_engine[name], expected[name], "status", "image", *COLUMNS)
    exact = ours(names, **ENGINES["pairsift"], **options)
    for name in names:
        if name in ON_PURPOSE:
            assert exact[name]["failure"] == ON_PURPOSE[name][0].value, name
            assert expected[name]["status"] == ON_PURPOSE[name][1], name
        else:
            assert_same(name, exact[name], expected[name], "status", "image", *COLUMNS)
    assert sum(row["status"] == "success" for row in exact.values()) >= 20


def assert_same(name: str, mine: Row, their: Row, *columns: str) -> None:
    for column in columns:
        assert mine[column] == their[column], (name, column, mine["failure_detail"], their["error_message"])


@pytest.mark.parametrize(
    "options",
    [
        {"resize_mode": "keep_ratio", "resize_only_if_bigger": True, "skip_reencode": True},
        {"resize_mode": "no", "skip_reencode": True, "encode_format": "png", "encode_quality": 3},
        {"resize_mode": "border", "image_size": 400, "upscale_interpolation": "cubic", "downscale_interpolation": "lanczos"},
        {"resize_mode": "center_crop", "min_image_size": 100, "max_image_area": 200_000.0, "max_aspect_ratio": 1.6},
    ],
)
def test_the_other_options(options: Row, theirs: Any, ours: Any, names: list[str]) -> None:
    expected = theirs(names, **options)
    mine = {engine: ours(names, engine=engine, **settings, **options) for engine, settings in ENGINES.items()}
    for name, engine in itertools.product(names, ENGINES):
        if name not in ON_PURPOSE or engine == "img2dataset":
            assert_same(name, mine[engine][name], expected[name], "status", "image", *COLUMNS)
    assert len({row["failure"] for row in mine["pairsift"].values()}) >= 8


def test_without_reencoding_our_engine_still_looks_at_the_file(theirs: Any, ours: Any, names: list[str]) -> None:
    expected = theirs(names, disable_all_reencoding=True)
    engine = ours(names, engine="img2dataset", **ENGINES["img2dataset"], disable_all_reencoding=True)
    mine = ours(names, **ENGINES["pairsift"], disable_all_reencoding=True)
    for name in names:
        assert_same(name, engine[name], expected[name], "status", "image", *COLUMNS)
        if mine[name]["status"] == "success":
            assert_same(name, mine[name], expected[name], "status", "image", "exif", "sha256")
            assert mine[name]["width"] == mine[name]["original_width"] > 0
    assert expected["page.jpg"]["status"] == "success"  # a web page in a shard, called .jpg
    assert mine["page.jpg"]["failure"] == "html_page"


def test_hashes_are_verified_alike(theirs: Any, ours: Any, corpus: dict[str, bytes]) -> None:
    names = ["broad.jpg", "upright.jpg", "photo.png", "missing.jpg"]
    hashes = [hashlib.sha256(corpus.get(name, b"")).hexdigest() for name in names]
    hashes[1] = hashes[0]
    expected = theirs(names, hashes=hashes)
    for engine, settings in ENGINES.items():
        mine = ours(names, hashes=hashes, engine=engine, **settings)
        assert [mine[name]["failure"] for name in names] == [None, "hash_mismatch", None, "http_404"]
        for name in names:
            assert_same(name, mine[name], expected[name], "status", "image", *SIZES)


BOXES = [[0.1, 0.2, 0.5, 0.6], [0.45, 0.3, 1.0, 0.9]]


@pytest.mark.parametrize("mode", MODES)
def test_boxes_are_blurred_alike(mode: str, theirs: Any, ours: Any, corpus: dict[str, bytes]) -> None:
    names = ["broad.jpg", "upright.jpg", "grey.png", "alpha.png", "photo.webp", "small.jpg"]
    boxes = [BOXES, BOXES[:1], BOXES, BOXES, None, []]
    options = {"resize_mode": mode, "encode_format": "png", "encode_quality": 3, "image_size": 96}
    expected = theirs(names, boxes=boxes, **options)
    engine = ours(names, boxes=boxes, engine="img2dataset", **ENGINES["img2dataset"], **options)
    mine = ours(names, boxes=boxes, **ENGINES["pairsift"], **options)
    sharp = ours(names, **ENGINES["pairsift"], **options)
    for name, row_boxes in zip(names, boxes, strict=True):
        assert_same(name, engine[name], expected[name], "image", *COLUMNS)
        blurred = pixels(mine[name])
        assert np.abs(blurred - pixels(expected[name])).max() <= (1 if row_boxes else 0), name
        assert (np.abs(blurred - pixels(sharp[name])).max() > 20) == bool(row_boxes), name


def pixels(row: Row) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_UNCHANGED).astype(int)


def test_blurred_boxes_are_stored_blurred_where_img2dataset_keeps_the_original_bytes(
    theirs: Any, ours: Any, corpus: dict[str, bytes]
) -> None:
    options = {"resize_mode": "no", "skip_reencode": True}
    expected = theirs(["broad.jpg"], boxes=[BOXES], **options)["broad.jpg"]
    mine = ours(["broad.jpg"], boxes=[BOXES], **ENGINES["pairsift"], **options)["broad.jpg"]
    assert expected["image"] == corpus["broad.jpg"]
    assert np.abs(pixels(mine) - pixels(expected)).max() > 20


def test_fast_decoding_stays_near(ours: Any, corpus: dict[str, bytes], test_data: Path) -> None:
    """PSNR against the exact decode, on real photographs of every size that the rule for fast decoding tells apart."""
    names = sorted(name for name in corpus if name.endswith(".jpg") and len(corpus[name]) > 20_000)
    assert len(names) >= 5
    found = []
    for size in (32, 64, 96, 128):
        options = {"image_size": size, "resize_mode": "keep_ratio", "encode_format": "png", "encode_quality": 1}
        exact, fast = (ours(names, orientation="ignore", decode=decode, **options) for decode in ("exact", "fast"))
        assert [row["failure"] for row in fast.values()] == [None] * len(names)
        found += [psnr(pixels(fast[name]), pixels(exact[name])) for name in names]
    assert np.median(found) >= 40, found
    assert min(found) >= 29, found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In decibels, for 8-bit images of one shape; 99 where they are equal."""
    error = float(np.mean((one - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else 99.0


def test_what_cannot_be_blurred_is_not_stored(ours: Any) -> None:
    names = ["broad.jpg", "upright.jpg"]
    rows = ours(names, boxes=[[[0.1, 0.2, 0.3]], BOXES], **ENGINES["pairsift"])
    assert [rows[name]["failure"] for name in names] == ["invalid_boxes", None]
    assert rows["broad.jpg"]["image"] is None
    with pytest.raises(ConfigError, match="bbox_col blurs pixels"):
        ours(names, boxes=[None, BOXES], disable_all_reencoding=True)
