"""EXIF tags as img2dataset writes them."""

import io
import json
import logging

import exifread

# It warns of every file that has no EXIF block or an odd one; neither is news.
logging.getLogger("exifread").setLevel(logging.CRITICAL)

_MAX_READS = 100_000  # by exifread, about 1 µs for each value; cameras' files need some hundred, TIFFs some thousand
_MAX_BYTES = 2**20  # and four times the file
_MAX_COPIES = 4


def exif_json(data: bytes) -> str | None:
    """A JSON object of exifread's tags (names and values as text, thumbnails and maker notes left out); "{}" if there are
    none, None if they cannot be read, or not in bounded time."""
    try:
        tags = exifread.process_file(_Metered(data), details=False)
        return json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})
    except Exception:  # noqa: BLE001 - on hostile bytes the parser raises whatever it trips over; no EXIF is worth a row
        return None


class _Metered(io.BytesIO):
    """A file that can be read so often and so much, and no more.

    Directories may overlap, and lead to each other: 60 KB of tags can hold exifread for hours, and Python's lock with it.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = _MAX_READS
        self._bytes = _MAX_BYTES + _MAX_COPIES * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._reads -= 1
        self._bytes -= len(found)
        if self._reads < 0 or self._bytes < 0:
            raise ValueError("more is read than any honest file needs")
        return found
