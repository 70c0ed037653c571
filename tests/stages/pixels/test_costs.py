import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pairsift.stages.pixels.costs import MAX_SCANS, MAX_TEXT, too_costly
from pairsift.stages.pixels.headers import is_truncated


def jpeg(**options: bool) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()[:33] + b"".join(chunks) + out.getvalue()[33:]


def with_scans(count: int, between: bytes = b"") -> bytes:
    data = jpeg()
    scan = data.index(b"\xff\xda")
    return data[:scan] + (data[scan:-2] + between) * count + b"\xff\xd9"


def test_honest_files_pass() -> None:
    assert too_costly(jpeg(progressive=True), "jpg") is None
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words " * 10_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x/>" * 100_000, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=text)
    assert too_costly(out.getvalue(), "png") is None


def test_scans_are_counted_up_to_the_end_of_the_picture() -> None:
    assert too_costly(with_scans(MAX_SCANS), "jpg") is None
    assert too_costly(with_scans(MAX_SCANS + 1), "jpg") is not None
    assert too_costly(jpeg() + b"\xff\xda" * 1000, "jpg") is None  # a film behind the picture, say


@pytest.mark.parametrize("fill", [b"", b"\xff"])
@pytest.mark.parametrize("before", [b"\xff\xfe\x00\x02", b"\xff\xfe\x00\x03x"])
def test_scans_are_counted_wherever_they_begin(before: bytes, fill: bytes) -> None:
    """At even and odd places, and behind bytes that fill up."""
    data = jpeg()
    scan = data.index(b"\xff\xda")
    files = [data[:scan] + before + (fill + data[scan:-2]) * count + b"\xff\xd9" for count in (MAX_SCANS, MAX_SCANS + 1)]
    assert [too_costly(file, "jpg") is None for file in files] == [True, False]


def test_an_end_marker_inside_a_segment_hides_nothing() -> None:
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    assert too_costly(with_scans(MAX_SCANS + 1, comment), "jpg") is not None


def test_a_marker_inside_a_segment_is_no_scan() -> None:
    data = jpeg()
    assert too_costly(data[:2] + b"\xff\xfe\xff\x00" + b"\xff\xda" * 32639 + data[2:], "jpg") is None


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_text_is_measured_inflated(kind: bytes) -> None:
    head = b"k\0\0" if kind == b"zTXt" else b"k\0\1\0de\0K\0"
    quarter = head + zlib.compress(bytes(MAX_TEXT // 4), 9)
    assert too_costly(png(*[chunk(kind, quarter)] * 4), "png") is None
    assert too_costly(png(*[chunk(kind, quarter)] * 5), "png") is not None
    assert too_costly(png(chunk(b"iTXt", b"k\0\0\0\0\0" + bytes(MAX_TEXT + 1))), "png") is None  # stored as it is


@pytest.mark.parametrize(
    "content", [b"", b"k", b"k\0", b"k\0\0", b"k\0\1", b"k\0\1\0", b"k\0\1\0\0", b"k\0\0" + b"\xff" * 99999, b"k\0\1\0\0\0\0"]
)
def test_damaged_text_is_harmless(content: bytes) -> None:
    for kind in (b"zTXt", b"iTXt"):
        assert too_costly(png(chunk(kind, content)), "png") is None


def test_looking_takes_no_time_itself() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26), 9))
    files = {
        "jpg": jpeg()[:-2] + b"\xff\xda\x00\x02" * 40 + b"\xff\x01" * 2_000_000 + b"\xff\xda" * 100,
        "png, inflated": png(*[bomb] * 50),
    }
    began = time.process_time()
    assert [too_costly(data, name[:3]) is not None for name, data in files.items()] == [True] * 2  # type: ignore[arg-type]
    assert is_truncated(png(chunk(b"prVt", b"") * 2_000_000), "png")
    assert time.process_time() - began < 2


def test_a_chunk_that_ends_beyond_the_file_is_not_made_room_for() -> None:
    """OpenCV would take 4 GB for this one."""
    announced = struct.pack(">I", 0xFFFFFF00) + b"prVt" + bytes(100)
    data = png()[:33] + announced + png()[33:]
    assert is_truncated(data, "png")


Entry = tuple[int, int, int, int]  # tag, type (3: SHORT, 4: LONG, 9: SLONG), count, value or where the values are
PICTURE: list[Entry] = [(256, 4, 1, 8000), (257, 4, 1, 8000), (258, 3, 1, 8), (277, 3, 1, 1), (279, 4, 1, 99)]


def tiff(*entries: Entry, after: bytes = b"") -> bytes:
    """Little-endian, with its one directory in front, and then `after`, which begins at 10 + 12 * len(entries) + 4."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + after


def where(entries: int) -> int:
    return 10 + 12 * entries + 4


def changed(**values: int) -> list[Entry]:
    """PICTURE with other values of the tags `t256`, …, or with further tags."""
    entries = {entry[0]: entry for entry in PICTURE}
    for name, value in values.items():
        entries[int(name[1:])] = (int(name[1:]), 4, 1, value)
    return sorted(entries.values())


@pytest.mark.parametrize(
    "entries",
    [
        PICTURE,
        changed(t258=16, t277=4),
        changed(t258=64),
        changed(t322=256, t323=256),
        changed(t256=10, t257=10, t322=4096, t323=4096),
        changed(t256=10, t257=10, t258=64, t277=4),
    ],
)
def test_honest_tiffs_pass(entries: list[Entry]) -> None:
    assert too_costly(tiff(*entries, after=bytes(99)), "tiff") is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (changed(t258=64, t277=4), "64-bit samples"),
        (changed(t258=32, t277=3), "32-bit samples"),
        (changed(t256=10, t257=10, t322=16384, t323=16384), "in tiles of 16384x16384"),
        (changed(t256=65536, t257=16, t322=16, t323=1 << 20), "in tiles of 16x1048576"),
        ([*PICTURE[:2], (258, 3, 3, 10**6)], "beyond its end"),
    ],
)
def test_tiffs_that_cost_their_decoder_gigabytes_or_minutes(entries: list[Entry], words: str) -> None:
    assert words in str(too_costly(tiff(*entries, after=bytes(99)), "tiff"))


@pytest.mark.parametrize("tag", [279, 325])
def test_strips_that_lie_all_in_one_place(tag: int) -> None:
    verdicts = []
    for strips in (10, 1000):
        entries = [*PICTURE[:4], (tag, 4, strips, where(5))]
        data = tiff(*entries, after=struct.pack("<I", 50_000) * strips + bytes(50_000))
        verdicts.append(too_costly(data, "tiff"))
    assert verdicts == [None, "TIFF whose strips or tiles have more than 16 times the file's bytes"]
    cut = tiff(*PICTURE[:4], (tag, 4, 2**32 - 1, 2**32 - 1))
    assert too_costly(cut, "tiff") is None  # for the decoder to refuse
