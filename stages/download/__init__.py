"""`use: download`: URLs in, encoded images out."""

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, Columns, ConfigError, Stage, Transform
from pairsift.stages.download import robots
from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.blocklists import Blocklists
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.collecting import rare_collections
from pairsift.stages.download.decoding import DecodePool
from pairsift.stages.download.engine_check import check_img2dataset
from pairsift.stages.download.fetch import Fetcher
from pairsift.stages.download.manners import CONTACT_LINE, Manners, MannersOptions, Surroundings
from pairsift.stages.download.network import NetworkLoop, cancel_all, network_loop
from pairsift.stages.download.wanted import HashName, wanted_of
from pairsift.stages.download.worker import RowOptions, Worker
from pairsift.stages.pixels.options import ImageOptions

_MAX_RESOLVER_THREADS = 32

__all__ = ["Download"]


class Download(ImageOptions, MannersOptions, Stage):
    """Fetch each row's URL, check and resize the image, and keep its encoded bytes.

    Every row gets an image, or a failure code and a line of detail; no row's trouble touches another's. A row takes at most
    (retries + 1) * timeout seconds of network and 8 * retries seconds of waiting between attempts, besides its turn in the
    queue. Results depend on the bodies that servers send, and on nothing else.

    Writes `image` (bytes in `image_format`), `width`, `height`, `original_width`, `original_height` (pixels; the original's
    before any resizing), `original_bytes` and `original_format` (of the body: jpg, png, webp, gif, bmp, tiff, avif), `exif`
    (JSON, null where it cannot be read) and `sha256` or what else `compute_hash` names.
    """

    version: ClassVar[int] = 3
    batch_rows: ClassVar[int] = 1_000_000  # the whole unit: between two batches the network would run dry

    engine: Literal["pairsift", "img2dataset"] = Field(
        "pairsift",
        description="img2dataset: that package's own fetch and resizing, the same to the byte; it has no bound on bodies or on "
        "the time of a whole answer, connects to any address, asks no robots.txt and calls itself Firefox",
    )
    timeout: Annotated[float, OPERATIONAL] = Field(
        10, gt=0, description="seconds per attempt, from the DNS query to the last byte of the body, redirects included"
    )
    retries: Annotated[int, OPERATIONAL] = Field(
        2,
        ge=0,
        description="further attempts where the fault may pass (DNS, connection refused or lost, 429, 5xx), after 0.5, 1, 2, … "
        "seconds, at most 8; a deadline that ran out or a 404 is not asked again",
    )
    connections: Annotated[int, OPERATIONAL] = Field(256, gt=0, description="downloads under way at a time, per worker")
    inflight_bytes: Annotated[int, OPERATIONAL] = Field(
        256_000_000,
        gt=0,
        description="memory per worker for bodies under way and finished images, exceeded by one body at most; fewer downloads "
        "are under way where the usual body is large, and bodies wait where it is used up",
    )
    max_bytes: int = Field(50_000_000, gt=0, description="largest body in bytes, content encoding undone; too_many_bytes")
    max_redirects: int = Field(5, ge=0, description="redirects followed; too_many_redirects")
    min_rate: Annotated[float, OPERATIONAL] = Field(
        1000,
        ge=0,
        description="bytes of body per second, on average, from 3 seconds after its headers on; too_slow; 0: any",
    )
    allow_private_addresses: bool | tuple[str, ...] = Field(
        False,
        description="true: connect to loopback, private and other addresses that are not public as well; or a list of the "
        'networks that may be connected to besides ("10.1.2.0/24"); otherwise private_address',
    )
    extract_exif: bool = Field(True, description="write the column exif")
    compute_hash: HashName | None = Field(
        "sha256", description="hash over each body as it came, in hex; the column has its name; null: none"
    )
    verify_hash: tuple[str, HashName] | None = Field(
        None, description="[column, type]: the column states each body's hash, in hex; any other body is a hash_mismatch"
    )
    bbox_col: str | None = Field(
        None,
        description="column of boxes to blur, as detectors of faces give them: a list of [left, top, right, bottom] per row, "
        "in fractions of the sides, as lists or as JSON text; null: nothing to blur",
    )

    @field_validator("allow_private_addresses")
    @classmethod
    def _networks(cls, value: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        AddressRule(value)
        return value

    def check(self) -> None:
        if self.engine == "img2dataset":
            check_img2dataset(self)
        elif self.contact is None and not self.allow_private_addresses:
            raise ConfigError(f"download has no contact, and hosts should know whom to ask. Add: {CONTACT_LINE}")
        Blocklists(self.blocklists)
        if self.bbox_col is not None and self.disable_all_reencoding:
            raise ConfigError("bbox_col blurs pixels, and disable_all_reencoding leaves them alone: choose one")

    def reads(self) -> Columns:
        return ("url", *([self.verify_hash[0]] if self.verify_hash else []), *([self.bbox_col] if self.bbox_col else []))

    def writes(self) -> pa.Schema:
        fields = [
            schema.IMAGE,
            schema.IMAGE_FORMAT,
            schema.WIDTH,
            schema.HEIGHT,
            schema.ORIGINAL_WIDTH,
            schema.ORIGINAL_HEIGHT,
            schema.ORIGINAL_BYTES,
            schema.ORIGINAL_FORMAT,
        ]
        if self.extract_exif:
            fields.append(schema.EXIF)
        if self.compute_hash:
            fields.append(pa.field(self.compute_hash, pa.string()))
        return pa.schema(fields)

    def identity(self) -> str:
        return self.blocklists.identity()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """The transform may be awaited for several tables at once: they share one network thread and its connections."""
        if self.engine == "img2dataset":
            with self._open_img2dataset() as transform:
                yield transform
            return
        with (
            rare_collections(),
            ThreadPoolExecutor(self._threads(), thread_name_prefix="pairsift-decode") as decoders,
            network_loop(min(self.connections, _MAX_RESOLVER_THREADS)) as network,
            self._worker(network, decoders) as worker,
        ):

            async def transform(table: pa.Table) -> pa.Table:
                wanted = wanted_of(table, self.verify_hash and self.verify_hash[0], self.bbox_col)
                return await network.submit(worker.run(table.column("url").to_pylist(), wanted))

            yield transform

    def _open_img2dataset(self) -> AbstractContextManager[Transform]:
        from pairsift.stages.download.img2dataset_engine import EngineOptions, open_engine

        return open_engine(
            EngineOptions(
                image=self,
                columns=pa.schema([*self.writes(), schema.FAILURE, schema.FAILURE_DETAIL]),
                timeout=self.timeout,
                retries=self.retries,
                threads=self.connections,
                user_agent_token=self.user_agent_token,
                disallowed_header_directives=frozenset(map(str.lower, self.disallowed_header_directives)) or None,
                extract_exif=self.extract_exif,
                compute_hash=self.compute_hash,
                verify_hash=self.verify_hash,
                bbox_col=self.bbox_col,
            )
        )

    def _threads(self) -> int:
        return math.ceil(self.resources.cpus)

    @contextmanager
    def _worker(self, network: NetworkLoop, decoders: ThreadPoolExecutor) -> Iterator[Worker]:
        client, worker = network.call(self._start(decoders))
        try:
            yield worker
        finally:
            if not sys.is_finalizing():  # see network_loop
                network.call(cancel_all())
                network.call(client.close())

    async def _start(self, decoders: ThreadPoolExecutor) -> tuple[Client, Worker]:
        reachable = self.allow_private_addresses if self.proxy is None else True  # the proxy, wherever the user has it
        client = Client(self.user_agent(), self.connections, AddressRule(reachable), proxy=self.proxy)
        limits = Limits(self.timeout, self.max_bytes, self.max_redirects, self.min_rate)
        columns = pa.schema([*self.writes(), schema.FAILURE, schema.FAILURE_DETAIL])
        blocklists = Blocklists(self.blocklists)
        options = RowOptions(
            self,
            self.retries,
            self.extract_exif,
            self.compute_hash,
            self.verify_hash and self.verify_hash[1],
            blocklists if blocklists.of_content else None,
        )
        fetcher = Fetcher(client, limits)
        pool = DecodePool(decoders, self._threads())
        return client, Worker(fetcher, self._manners(client, blocklists), pool, columns, options)

    def _manners(self, client: Client, blocklists: Blocklists) -> Manners:
        workers = self.resources.workers
        around = Surroundings(
            fetcher=Fetcher(client, Limits(min(self.timeout, robots.SECONDS), robots.MAX_BYTES, robots.MAX_REDIRECTS)),
            connections=self.connections,
            inflight_bytes=self.inflight_bytes,
            workers=1 if workers is None else workers if isinstance(workers, int) else workers[1],
            retries=self.retries,
            timeout=self.timeout,
            allow_private_addresses=self.allow_private_addresses,
            blocklists=blocklists,
        )
        return Manners(self, around)
