"""What becomes of one URL: attempts, back-off, decoding; and of a batch of them, in order, whatever finishes first."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pairsift.stages.download.blocklists import Blocklists
from pairsift.stages.download.decoding import DecodePool
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.exif import exif_json
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.host_names import host_of, interleaved
from pairsift.stages.download.manners import Manners
from pairsift.stages.download.slots import Slots
from pairsift.stages.download.tables import Row, table_of
from pairsift.stages.download.urls import parse_url
from pairsift.stages.download.wanted import NOTHING, HashName, Wanted, boxes_of, check_hash, hex_digest
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.headers import sniff
from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions

BACKOFF_SECONDS = 0.5  # before the second attempt; doubles with each further one
MAX_BACKOFF_SECONDS = 8.0


@dataclass(frozen=True)
class RowOptions:
    """What is made of a body, and how often it is asked for."""

    image: ImageOptions
    retries: int
    extract_exif: bool
    compute_hash: HashName | None
    verify_hash: HashName | None = None
    blocklists: Blocklists | None = None  # of bodies


class Worker:
    """Turns tables of URLs into tables of images. Lives on the network loop; shared by all units of a stage's worker."""

    def __init__(
        self, fetcher: Fetcher, manners: Manners, decoders: DecodePool, schema: pa.Schema, options: RowOptions
    ) -> None:
        self._fetcher = fetcher
        self._manners = manners
        self._decoders = decoders
        self._schema = schema
        self._options = options

    async def run(self, urls: list[str | None], wanted: list[Wanted] | None = None) -> pa.Table:
        """One row per URL, in order, of what is `wanted` of each. A program error in one row ends them all and is raised."""
        wanted, kept = wanted or [NOTHING] * len(urls), _Kept(self._manners.slots)
        started = {
            index: asyncio.ensure_future(self._row(urls[index], wanted[index], kept))
            for index in interleaved(range(len(urls)), map(host_of, urls))
        }
        tasks = [started[index] for index in range(len(urls))]
        try:
            rows = await asyncio.gather(*tasks)
            # Not on this loop: to copy a unit's images takes long enough to keep all other downloads waiting.
            table = await self._decoders.run(partial(table_of, rows, self._schema))
            return table.replace_schema_metadata({f"count.{name}": str(count) for name, count in kept.counts.items()})
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        finally:
            kept.release()

    async def _row(self, text: str | None, wanted: Wanted, kept: "_Kept") -> Row:
        try:
            row = await self._row_of(text, wanted, kept.counts)
        except FetchError as error:
            return failed_row(error)
        kept.add(len(row.get("image", b"")))
        return row

    async def _row_of(self, text: str | None, wanted: Wanted, counts: Counter[str]) -> Row:
        url = parse_url(text)
        visit = self._manners.visit(text)
        for attempt in range(self._options.retries + 1):
            # A visit holds its connection until the body is decoded, so that bodies do not pile up in front of a slow decoder.
            # The attempt's deadline starts only when it has one: a row never fails for the length of our own queue.
            counts["retries"] += attempt > 0
            try:
                body = await self._fetcher.fetch(url, visit)
                counts["bytes_received"] += len(body)
                visit.arrived(len(body))
                return await self._decoders.run(partial(row_of_body, body, self._options, wanted))
            except FetchError as error:
                if not error.again or attempt == self._options.retries:
                    raise
                failed = error
            finally:
                visit.close()
            await visit.wait(failed, backoff(attempt))
        raise AssertionError("the last attempt returns or raises")


class _Kept:
    """Bytes that a batch's finished rows keep in memory; and what is counted of the batch, for the run's log."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._bytes = slots, 0
        self.counts: Counter[str] = Counter()

    def add(self, size: int) -> None:
        self._bytes += size
        self._slots.keep(size)

    def release(self) -> None:
        self._slots.keep(-self._bytes)


def row_of_body(body: bytes, options: RowOptions, wanted: Wanted = NOTHING) -> Row:
    """`image_row`, or the failure as a row.

    An exception that went on to another thread would be in a cycle with its traceback, and keep the body in memory until
    Python's collector comes by.
    """
    try:
        return image_row(body, options, wanted)
    except (FetchError, ImageError) as error:
        return failed_row(error)


def failed_row(error: FetchError | ImageError) -> Row:
    """The columns of a row that has no image."""
    return {"failure": error.failure.value, "failure_detail": str(error) or None}


def image_row(body: bytes, options: RowOptions, wanted: Wanted = NOTHING) -> Row:
    """The columns of a body: a pure function of it and of what is wanted. Raises ImageError, FetchError(HASH_MISMATCH,
    BLOCKED_CONTENT)."""
    if options.blocklists:
        options.blocklists.check_content(body)
    if options.verify_hash:
        check_hash(body, options.verify_hash, wanted.digest)
    image = prepare(body, options.image, boxes_of(wanted.boxes))
    row: Row = {
        "image": image.data,
        "image_format": image.format,
        "width": image.width,
        "height": image.height,
        "original_width": image.original_width,
        "original_height": image.original_height,
        "original_bytes": len(body),
        "original_format": sniff(body),
    }
    if options.extract_exif:
        row["exif"] = exif_json(body)
    if options.compute_hash:
        row[options.compute_hash] = hex_digest(body, options.compute_hash)
    return row


def backoff(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt` (from 0) has failed: doubling, capped, and jittered by half, so that
    rows that failed together do not come back together."""
    return min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)
