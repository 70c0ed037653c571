"""EXIF tags as img2dataset writes them."""

import io
import json
import logging

import exifread

# It warns of every file that has no EXIF block or an odd one; neither is news.
logging.getLogger("exifread").setLevel(logging.CRITICAL)


def exif_json(data: bytes) -> str | None:
    """A JSON object of exifread's tags (names and values as text, thumbnails and maker notes left out); "{}" if there are
    none, None if they cannot be read."""
    try:
        tags = exifread.process_file(io.BytesIO(data), details=False)
        return json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})
    except Exception:  # noqa: BLE001 - on hostile bytes the parser raises whatever it trips over; no EXIF is worth a row
        return None
