"""`text.url_normalised`: one spelling for URLs that ask for the same."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import translate
from typing import ClassVar

import pyarrow as pa
from pydantic import Field
from yarl import URL

from pairsift.stages.base import Columns, Stage, Transform

TRACKING = ["utm_*", "fbclid", "gclid", "gclsrc", "dclid", "msclkid", "yclid", "igshid", "mc_cid", "mc_eid", "_ga", "_gl"]
_PORTS = {"http": 80, "https": 443, "ftp": 21}


class UrlNormalised(Stage):
    """A URL in the spelling that all its equals share, for `dedup.exact`, `dedup.against` and `text.listed`. Asks no network.

    - `url_normalised`: string; null where there is no URL, none with a host, or none that can be read.

    What RFC 3986 (section 6.2) calls equal: scheme and host in lower case, international names in their ASCII form, `%` only
    where it is needed and with capitals, no default port, no `.` and `..` in the path, `/` for an empty one. Beyond it: without
    fragment, the query's parameters sorted by name (those of one name keep their order), without those that only say where a
    visitor came from (`drop`). What is downloaded is the URL as it was.
    """

    batch_rows: ClassVar[int] = 8192

    column: str = Field("url", description="column of URLs")
    drop: list[str] = Field(
        TRACKING, description="names of parameters to leave out; * stands for anything; whatever their case"
    )
    schemes: bool = Field(True, description="false: http and https are one")

    def reads(self) -> Columns:
        return (self.column,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("url_normalised", pa.string())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        dropped = re.compile("|".join(map(translate, self.drop)) or r"(?!)", re.IGNORECASE)

        def transform(batch: pa.Table) -> pa.Table:
            urls = (None if url is None else _normalised(url, dropped) for url in batch[self.column].to_pylist())
            found = [url and (url if self.schemes else re.sub("^https:", "http:", url)) for url in urls]
            return pa.table([pa.array(found, pa.string())], schema=self.writes())

        yield transform


def _normalised(text: str, dropped: re.Pattern[str]) -> str | None:
    try:
        url = URL(text.strip())
        if not url.raw_host:
            return None
        host = url.raw_host.rstrip(".")
        if host != url.raw_host:
            url = url.with_host(host)
        if url.explicit_port == _PORTS.get(url.scheme):
            url = url.with_port(None)
        kept = [(name, value) for name, value in url.query.items() if not dropped.match(name)]
        if url.raw_path == "/":  # an empty one is said to be so, too
            url = url.with_path("/")
        url = url.with_query(sorted(kept, key=lambda pair: pair[0]) or None)
        return str(url.with_fragment(None))
    except (ValueError, IndexError):  # what yarl raises; IndexError for "http://[::1]:@"
        return None
