"""Content encodings (RFC 9110, 8.4), undone as a body comes. None is asked for; some servers send them all the same."""

import asyncio
import zlib
from typing import Protocol

from pairsift.stages.download.connection import Connection, Head
from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

_CODINGS = ("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz")  # of IANA's, those of the web
_PIECE_BYTES = 65536
_GZIP = 16 + zlib.MAX_WBITS  # as zlib calls the formats
_MAX_MEMBERS = 1000  # each costs some microseconds, and has 20 bytes if it is empty
_MEMBER = 0x1F  # how a gzip member begins; others may follow the first (RFC 1952, 2.2)


class Pieces(Protocol):
    """What a body is read from."""

    async def some(self) -> bytes:
        """What has come since; at the end, nothing."""


def coding_of(head: Head) -> str | None:
    """The content encoding that is to be undone, gzip or deflate. Words that name none ("utf-8", "none") are passed over, as
    browsers do. Nested ones multiply what one can blow up, and are never seen on images: one at most. Raises
    FetchError(BAD_ENCODING)."""
    words = [word.strip().lower() for value in head.headers.getall("Content-Encoding", ()) for word in value.split(",")]
    codings = [word.removeprefix("x-") for word in words if word in _CODINGS]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ("gzip", "deflate"):
        raise FetchError(Failure.BAD_ENCODING, f"Content-Encoding {', '.join(codings)[:100]!r}, though none was asked for")
    return codings[0]


def pieces_of(connection: Connection, coding: str | None, max_bytes: int) -> Pieces:
    """A body as it comes, its content encoding undone. `max_bytes`: see `Inflated`."""
    return connection if coding is None else Inflated(connection, coding, max_bytes)


class Inflated:
    """A connection's body with its content encoding undone, in pieces that stay small however small what came was."""

    def __init__(self, connection: Connection, coding: str, max_bytes: int) -> None:
        """`max_bytes`: of the body as it is sent, which may inflate to nothing."""
        self._connection = connection
        self._max_bytes = max_bytes
        self._coding = coding
        self._zlib: zlib._Decompress | None = None  # None: between two members
        self._left = b""  # came, and waits to be inflated
        self._members = 0
        self._over = False

    async def some(self) -> bytes:
        """Raises FetchError, BAD_ENCODING and TOO_MANY_BYTES among others."""
        while not self._over:
            if self._left:
                await asyncio.sleep(0)  # what blows up is not to keep all others waiting
            else:
                self._left = await self._connection.some()
                if self._connection.received > self._max_bytes:
                    raise FetchError(Failure.TOO_MANY_BYTES, f"max_bytes is {self._max_bytes}, {self._coding}")
                if not self._left:
                    return self._end()
            if piece := self._inflated():
                return piece
        return b""

    def _inflated(self) -> bytes:
        if self._zlib is None:
            if self._members and (self._coding != "gzip" or self._left[0] != _MEMBER):
                self._over = True  # what stands behind is nobody's
                return b""
            self._zlib, self._members = zlib.decompressobj(self._format()), self._members + 1
            if self._members > _MAX_MEMBERS:
                raise FetchError(Failure.BAD_ENCODING, f"{self._coding}: more than {_MAX_MEMBERS} members")
        try:
            piece = self._zlib.decompress(self._left, _PIECE_BYTES)
        except zlib.error as error:
            raise FetchError(Failure.BAD_ENCODING, f"{self._coding}: {error}") from error
        self._left = self._zlib.unconsumed_tail
        if self._zlib.eof:
            self._left, self._zlib = self._zlib.unused_data, None
        return piece

    def _format(self) -> int:
        if self._coding == "gzip":
            return _GZIP
        # "deflate" is zlib's format; many servers leave its envelope away.
        return zlib.MAX_WBITS if self._left[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS

    def _end(self) -> bytes:
        if self._zlib is not None:
            raise FetchError(Failure.BAD_ENCODING, f"{self._coding}: the body is cut short")
        return b""
