"""What becomes of one URL: attempts, back-off, decoding; and of a batch of them, in order, whatever finishes first."""

import asyncio
import hashlib
import random
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pairsift.stages.download.exif import exif_json
from pairsift.stages.download.fetch import Fetcher, FetchError, parse_url
from pairsift.stages.images import ImageError, ImageOptions, prepare

Row = dict[str, Any]  # column name → value; what is not named is null

BACKOFF_SECONDS = 0.5  # before the second attempt; doubles with each further one
MAX_BACKOFF_SECONDS = 8.0


@dataclass(frozen=True)
class RowOptions:
    """What is made of a body, and how often it is asked for."""

    image: ImageOptions
    retries: int
    extract_exif: bool
    compute_hash: bool


class Worker:
    """Turns tables of URLs into tables of images. Lives on the network loop; shared by all units of a stage's worker."""

    def __init__(self, fetcher: Fetcher, decoders: Executor, connections: int, schema: pa.Schema, options: RowOptions) -> None:
        self._fetcher = fetcher
        self._decoders = decoders
        self._slots = asyncio.Semaphore(connections)
        self._schema = schema
        self._options = options

    async def run(self, urls: list[str | None]) -> pa.Table:
        """One row per URL, in order. A program error in one row ends them all and is raised."""
        tasks = [asyncio.ensure_future(self._row(url)) for url in urls]
        try:
            rows = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return pa.Table.from_pylist(rows, schema=self._schema)

    async def _row(self, text: str | None) -> Row:
        try:
            return await self._image_of(text)
        except (FetchError, ImageError) as error:
            return {"failure": error.failure.value, "failure_detail": str(error) or None}

    async def _image_of(self, text: str | None) -> Row:
        url = parse_url(text)
        for attempt in range(self._options.retries + 1):
            # A slot is held until the body is decoded, so that bodies do not pile up in front of a slow decoder. The
            # attempt's deadline starts only when it has its slot: a row never fails for the length of our own queue.
            async with self._slots:
                try:
                    body = await self._fetcher.fetch(url)
                except FetchError as error:
                    if not error.again or attempt == self._options.retries:
                        raise
                else:
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(self._decoders, image_row, body, self._options)
            await asyncio.sleep(backoff(attempt))
        raise AssertionError("the last attempt returns or raises")


def image_row(body: bytes, options: RowOptions) -> Row:
    """The columns of a body: a pure function of it. Raises ImageError."""
    image = prepare(body, options.image)
    row: Row = {
        "image": image.data,
        "image_format": image.format,
        "width": image.width,
        "height": image.height,
        "original_width": image.original_width,
        "original_height": image.original_height,
    }
    if options.extract_exif:
        row["exif"] = exif_json(body)
    if options.compute_hash:
        row["sha256"] = hashlib.sha256(body).hexdigest()
    return row


def backoff(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt` (from 0) has failed: doubling, capped, and jittered by half, so that
    rows that failed together do not come back together."""
    return min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)
