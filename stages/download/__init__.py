"""`use: download`: URLs in, encoded images out."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import Annotated, Literal

import aiohttp
import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Columns, Stage, Transform
from pairsift.stages.download.fetch import Fetcher, Limits, open_session
from pairsift.stages.download.network import NetworkLoop, cancel_all, network_loop
from pairsift.stages.download.worker import RowOptions, Worker
from pairsift.stages.images import ImageOptions

_HEADER_TEXT = r"^[\x20-\x27\x2a-\x7e]+$"  # printable ASCII without parentheses, which delimit comments in User-Agent
_MAX_RESOLVER_THREADS = 32

__all__ = ["Download"]


class Download(ImageOptions, Stage):
    """Fetch each row's URL, check and resize the image, and keep its encoded bytes.

    Every row gets an image, or a failure code and a line of detail; no row's trouble touches another's. A row takes at most
    (retries + 1) * timeout seconds of network and 8 * retries seconds of waiting between attempts, besides its turn in the
    queue. Results depend on the bodies that servers send, and on nothing else.

    Writes `image` (bytes in `image_format`), `width`, `height`, `original_width`, `original_height` (pixels; the original's
    before any resizing), `exif` (JSON, null where it cannot be read) and `sha256` (of the body as it came, hex).
    """

    timeout: Annotated[float, OPERATIONAL] = Field(
        10, gt=0, description="seconds per attempt, from the DNS query to the last byte of the body, redirects included"
    )
    retries: Annotated[int, OPERATIONAL] = Field(
        2,
        ge=0,
        description="further attempts where the fault may pass (DNS, connection refused or lost, 429, 5xx), after 0.5, 1, 2, … "
        "seconds, at most 8; a timeout or a 404 is not asked again",
    )
    connections: Annotated[int, OPERATIONAL] = Field(64, gt=0, description="downloads under way at a time, per worker")
    max_bytes: int = Field(50_000_000, gt=0, description="largest body in bytes, content encoding undone; too_many_bytes")
    max_redirects: int = Field(5, ge=0, description="redirects followed; too_many_redirects")
    allow_private_addresses: bool = Field(
        False, description="connect to loopback, private and other addresses that are not public; otherwise private_address"
    )
    user_agent_token: str | None = Field(
        None, pattern=_HEADER_TEXT, description="the product name that stands first in User-Agent; default: pairsift"
    )
    contact: Annotated[str | None, OPERATIONAL] = Field(
        None, pattern=_HEADER_TEXT, description="URL or e-mail address of whoever runs this; stands in User-Agent"
    )
    extract_exif: bool = Field(True, description="write the column exif")
    compute_hash: Literal["sha256"] | None = Field("sha256", description="hash over each body as it came; null: none")

    def reads(self) -> Columns:
        return ("url",)

    def writes(self) -> pa.Schema:
        fields = [
            schema.IMAGE,
            schema.IMAGE_FORMAT,
            schema.WIDTH,
            schema.HEIGHT,
            schema.ORIGINAL_WIDTH,
            schema.ORIGINAL_HEIGHT,
        ]
        if self.extract_exif:
            fields.append(schema.EXIF)
        if self.compute_hash:
            fields.append(schema.SHA256)
        return pa.schema(fields)

    def user_agent(self) -> str:
        """Says honestly who asks: `token/version (contact)`."""
        product = f"pairsift/{installed_version('pairsift')}"
        if self.user_agent_token:
            product = f"{self.user_agent_token} {product}"
        return f"{product} ({self.contact})" if self.contact else product

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """The transform may be awaited for several tables at once: they share one network thread and its connections."""
        threads = math.ceil(self.resources.cpus)
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="pairsift-decode") as decoders,
            network_loop(min(self.connections, _MAX_RESOLVER_THREADS)) as network,
            self._worker(network, decoders) as worker,
        ):

            async def transform(table: pa.Table) -> pa.Table:
                return await network.submit(worker.run(table.column("url").to_pylist()))

            yield transform

    @contextmanager
    def _worker(self, network: NetworkLoop, decoders: ThreadPoolExecutor) -> Iterator[Worker]:
        session, worker = network.call(self._start(decoders))
        try:
            yield worker
        finally:
            network.call(cancel_all())
            network.call(session.close())

    async def _start(self, decoders: ThreadPoolExecutor) -> tuple[aiohttp.ClientSession, Worker]:
        session = open_session(self.user_agent(), self.connections, self.allow_private_addresses)
        limits = Limits(self.timeout, self.max_bytes, self.max_redirects)
        columns = pa.schema([*self.writes(), schema.FAILURE, schema.FAILURE_DETAIL])
        options = RowOptions(self, self.retries, self.extract_exif, self.compute_hash is not None)
        return session, Worker(Fetcher(session, limits), decoders, self.connections, columns, options)
