import io
import json
import struct

import exifread
import pytest
from PIL import Image

from pairsift.stages.download.exif import exif_json


def with_tags(photo: bytes) -> bytes:
    tags = Image.Exif()
    tags[0x010F] = "  A maker with \N{SNOWMAN} "
    tags[0x0112] = 6
    out = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(out, "JPEG", exif=tags)
    return out.getvalue()


def test_as_img2dataset_writes_them(photo: bytes) -> None:
    data = with_tags(photo)
    # img2dataset 1.47, downloader.py, word for word
    theirs = json.dumps(
        {k: str(v).strip() for k, v in exifread.process_file(io.BytesIO(data), details=False).items() if v is not None}
    )
    assert exif_json(data) == theirs
    assert json.loads(theirs)["Image Orientation"] == "Rotated 90 CW"


def test_none_is_an_empty_object(photo: bytes) -> None:
    assert exif_json(photo) == "{}"
    assert exif_json(b"GIF89a") == "{}"


def test_damaged_tags_cost_no_row(photo: bytes) -> None:
    data = bytearray(with_tags(photo))
    start = data.index(b"Exif\0\0") + 6
    for offset in range(start, start + 60):
        damaged = bytes(data[:offset]) + b"\xff\xff\xff\xff" + bytes(data[offset + 4 :])
        result = exif_json(damaged)
        assert result is None or isinstance(json.loads(result), dict)


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Big-endian, of (tag, type, count, value or where the values are), behind the header of a TIFF."""
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *e) for e in entries) + bytes(4)


@pytest.mark.parametrize(
    "tiff",
    [
        directory(*[(0x8825, 4, 1, 8)] * 100, *[(0x9000 + i, 3, 990, 8) for i in range(4900)]),  # each leads to all others
        directory(*[(0x9000 + i, 3, 990, 8) for i in range(28_000)]),
        directory(*[(0x9000 + i, 2, 1_000_000, 8) for i in range(4000)]) + bytes(2_000_000),
    ],
    ids=["directories in a circle", "lists over lists", "texts over texts"],
)
@pytest.mark.timeout(20)
def test_tags_that_would_take_for_ever(tiff: bytes) -> None:
    assert exif_json(tiff) is None


def test_tags_of_a_large_file_are_all_there() -> None:
    tiff = directory(*[(0x9000 + i, 3, 900, 8) for i in range(90)], (0x010F, 2, 5_000_000, 2000)) + b"x" * 5_000_000
    assert len(json.loads(exif_json(tiff) or "")) == 91
