"""`text.url_parts`: the host of a URL, and the domain that someone has registered."""

import hashlib
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import publicsuffixlist
import pyarrow as pa
from pydantic import Field
from yarl import URL

from pairsift.stages.base import Columns, Stage, Transform


class UrlParts(Stage):
    """Host and registered domain of a URL, for caps (`select.cap` per domain) and lists (`text.listed`). Asks no network.

    - `host`: string, lower case, international names in their ASCII form (`xn--…`), without port; null where there is no URL,
      or none that can be read.
    - `domain`: string, the public suffix and one label more: `example.co.uk` of `img.example.co.uk`. The host itself where it
      is an address, a suffix, or a name without dots.

    Suffixes are those of https://publicsuffix.org, in the copy that the installed package publicsuffixlist brings.
    """

    batch_rows: ClassVar[int] = 8192

    column: str = Field("url", description="column of URLs")
    private_suffixes: bool = Field(
        False, description="true: whoever has a name below blogspot.com or github.io counts as a domain of their own"
    )

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("host", pa.string()), pa.field("domain", pa.string())])

    def identity(self) -> str:
        return hashlib.blake2b(Path(publicsuffixlist.PSLFILE).read_bytes(), digest_size=16).hexdigest()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        suffixes = publicsuffixlist.PublicSuffixList(only_icann=not self.private_suffixes)

        @lru_cache(maxsize=1 << 16)
        def domain(host: str) -> str:
            return host if _is_address(host) else suffixes.privatesuffix(host) or host

        def transform(batch: pa.Table) -> pa.Table:
            hosts = [None if url is None else _host(url) for url in batch[self.column].to_pylist()]
            domains = [None if host is None else domain(host) for host in hosts]
            return pa.table([pa.array(hosts, pa.string()), pa.array(domains, pa.string())], schema=self.writes())

        yield transform


def _host(url: str) -> str | None:
    try:
        host = URL(url.strip()).raw_host
    except (ValueError, IndexError):  # what yarl raises; IndexError for "http://[::1]:@"
        return None
    return host.lower().rstrip(".") or None if host else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
