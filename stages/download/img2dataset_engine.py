"""`engine: img2dataset`: that package's own fetch and `Resizer` behind our columns, so that its results are its results.

What it does to a row is `img2dataset.downloader.Downloader.download_shard` of 1.47, written down again without the writer:
that method cannot be had apart from its shard files. What it lacks, and this module cannot give it: a bound on bodies and on
the time of a whole answer, a check of addresses (its fetch follows redirects anywhere), robots.txt, limits per host.
"""

import asyncio
import contextlib
import functools
import io
import os
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import pyarrow as pa

from pairsift.stages.base import Transform
from pairsift.stages.download.exif import exif_json
from pairsift.stages.download.wanted import HashName, Wanted, hex_digest, wanted_of
from pairsift.stages.fates import Failure
from pairsift.stages.img2dataset_messages import fetch_failure, resize_failure
from pairsift.stages.pixels.headers import sniff
from pairsift.stages.pixels.options import ImageOptions

Row = dict[str, Any]  # column name → value; what is not named is null


@dataclass(frozen=True)
class EngineOptions:
    """What img2dataset's `Downloader` and `Resizer` are told."""

    image: ImageOptions
    columns: pa.Schema  # of the answer, failure and failure_detail included
    timeout: float  # seconds for each wait on the socket, not for the whole answer
    retries: int
    threads: int
    user_agent_token: str | None
    disallowed_header_directives: frozenset[str] | None  # of X-Robots-Tag, lower case; None: it is not looked at
    extract_exif: bool
    compute_hash: HashName | None
    verify_hash: tuple[str, HashName] | None  # column, type
    bbox_col: str | None


@contextlib.contextmanager
def open_engine(options: EngineOptions) -> Iterator[Transform]:
    """The stage's transform. It may be awaited for several tables at once: they share `threads` threads.

    The threads are daemons, as img2dataset's are: a server that sends a byte now and then holds one for as long as it likes.
    """
    engine = _Engine(options)
    pool = ThreadPool(options.threads)

    async def transform(table: pa.Table) -> pa.Table:
        wanted = wanted_of(table, options.verify_hash and options.verify_hash[0], options.bbox_col)
        urls = table.column("url").to_pylist()
        rows = await asyncio.gather(*[_submit(pool, engine.row, *of_row) for of_row in zip(urls, wanted, strict=True)])
        return pa.Table.from_pylist(rows, schema=options.columns)

    try:
        yield transform
    finally:
        pool.terminate()


def _submit(pool: ThreadPool, function: Any, *arguments: Any) -> "asyncio.Future[Row]":
    future: Future[Row] = Future()
    future.set_running_or_notify_cancel()  # so that nobody can cancel it: the pool's own thread sets its result
    pool.apply_async(function, arguments, callback=future.set_result, error_callback=future.set_exception)
    return asyncio.wrap_future(future)


class Img2dataset(NamedTuple):
    """Its modules. They pull in wandb, ray and torch where those are installed, so that they are imported on demand."""

    downloader: Any
    resizer: Any
    blurrer: Any


@functools.cache
def img2dataset() -> Img2dataset:
    """Import it, quietly, once."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its resizer's library would ask the network for a newer version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its libraries have deprecated
        from img2dataset import blurrer, downloader, resizer
    # For each image it points stdout and stderr of the whole process at /dev/null, which loses what other threads print
    # then; the complaints of OpenCV that this is for are switched off where stages.pixels.coding is imported.
    resizer.SuppressStdoutStderr = contextlib.nullcontext
    return Img2dataset(downloader, resizer, blurrer)


class _Failed(Exception):  # noqa: N818 - a fate, not an error
    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class _Engine:
    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._token = options.user_agent_token.strip().lower() if options.user_agent_token else None
        self._one_at_a_time = threading.Lock()  # as in img2dataset; its blurring seeds the process's random numbers
        self._resizer = _resizer(options.image, blurs=options.bbox_col is not None)

    def row(self, url: str | None, wanted: Wanted) -> Row:
        """The columns of one row. Called in the pool's threads."""
        try:
            return self._row(url, wanted)
        except _Failed as failed:
            return {"failure": failed.failure.value, "failure_detail": str(failed)}

    def _row(self, url: str | None, wanted: Wanted) -> Row:
        body = self._fetch(url)
        options = self._options
        if options.verify_hash and hex_digest(body, options.verify_hash[1]) != wanted.digest:
            raise _Failed(Failure.HASH_MISMATCH, "hash mismatch")
        with self._one_at_a_time:
            image, width, height, original_width, original_height, message = self._resizer(io.BytesIO(body), wanted.boxes)
        if message is not None:
            raise _Failed(resize_failure(message), message)
        row: Row = {"image": image, "image_format": options.image.encode_format}
        row |= {"width": width, "height": height, "original_width": original_width, "original_height": original_height}
        row |= {"original_bytes": len(body), "original_format": sniff(body)}
        if options.extract_exif:
            row["exif"] = exif_json(body)
        if options.compute_hash:
            row[options.compute_hash] = hex_digest(body, options.compute_hash)
        return row

    def _fetch(self, url: str | None) -> bytes:
        options = self._options
        check_scheme(url)
        _, stream, message = img2dataset().downloader.download_image_with_retry(
            (0, url), options.timeout, options.retries, self._token, options.disallowed_header_directives
        )
        if message is not None:
            raise _Failed(fetch_failure(message), message)
        return bytes(stream.getvalue())


def check_scheme(url: str | None) -> None:
    """Raises for what urllib would read from somewhere else than the web, such as file:///etc/passwd, or could not parse."""
    try:
        scheme = urllib.request.Request(url).type  # type: ignore[arg-type]  # noqa: S310 - this asks for nothing
    except (ValueError, AttributeError, TypeError) as error:
        raise _Failed(Failure.INVALID_URL, str(error)) from error
    if scheme not in ("http", "https"):
        raise _Failed(Failure.UNSUPPORTED_SCHEME, f"scheme {scheme!r:.50}")


def _resizer(image: ImageOptions, *, blurs: bool) -> Any:
    bounds = {name: getattr(image, name) or float("inf") for name in ("max_image_area", "max_aspect_ratio")}
    return img2dataset().resizer.Resizer(
        image_size=image.image_size,
        resize_mode=image.resize_mode,
        resize_only_if_bigger=image.resize_only_if_bigger,
        upscale_interpolation=image.upscale_interpolation,
        downscale_interpolation=image.downscale_interpolation,
        encode_quality=image.encode_quality,
        encode_format=image.encode_format,
        skip_reencode=image.skip_reencode,
        disable_all_reencoding=image.disable_all_reencoding,
        min_image_size=image.min_image_size,
        blurrer=img2dataset().blurrer.BoundingBoxBlurrer() if blurs else None,
        **bounds,
    )
