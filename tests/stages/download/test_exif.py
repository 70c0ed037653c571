import io
import json

import exifread
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
