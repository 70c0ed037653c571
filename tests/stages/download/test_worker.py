import asyncio
import gc
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from pairsift.stages.download.decoding import DecodePool
from pairsift.stages.download.tables import Row
from pairsift.stages.download.worker import MAX_BACKOFF_SECONDS, RowOptions, backoff, image_row, row_of_body
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.options import ImageOptions


def test_rows_are_a_pure_function_of_the_body(photo: bytes) -> None:
    options = RowOptions(ImageOptions(resize_mode="keep_ratio"), retries=0, extract_exif=True, compute_hash="sha256")
    row = image_row(photo, options)
    assert row == image_row(photo, options)
    assert row["sha256"] == hashlib.sha256(photo).hexdigest()
    assert min(row["width"], row["height"]) == 256


def test_no_column_that_was_not_asked_for(photo: bytes) -> None:
    row = image_row(photo, RowOptions(ImageOptions(), retries=0, extract_exif=False, compute_hash=None))
    assert {"exif", "sha256"}.isdisjoint(row)


def test_a_bad_body_is_told_by_code() -> None:
    with pytest.raises(ImageError) as caught:
        image_row(b"<html>", RowOptions(ImageOptions(), retries=0, extract_exif=True, compute_hash="sha256"))
    assert caught.value.failure is Failure.HTML_PAGE


def test_a_bad_body_becomes_a_row_and_is_let_go() -> None:
    """At once: the collector does not come by here."""
    options = RowOptions(ImageOptions(), retries=0, extract_exif=True, compute_hash="sha256")
    bodies = [bytes(bytearray(body)) for body in (b"<html>", b"GIF89a", b"not an image")]

    async def rows() -> list[Row]:
        with ThreadPoolExecutor(1) as executor:
            pool = DecodePool(executor, 1)
            return await asyncio.gather(*(pool.run(partial(row_of_body, body, options)) for body in bodies))

    before = [sys.getrefcount(body) for body in bodies]
    gc.disable()
    try:
        found = asyncio.run(rows())
        assert [sys.getrefcount(body) for body in bodies] == before
    finally:
        gc.enable()
    assert [row["failure"] for row in found] == ["html_page", "decode_error", "not_an_image"]


def test_backoff_doubles_within_bounds_and_is_never_the_same_for_all() -> None:
    for attempt, longest in enumerate([0.5, 1, 2, 4, 8, 8, 8]):
        waits = [backoff(attempt) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest <= MAX_BACKOFF_SECONDS
