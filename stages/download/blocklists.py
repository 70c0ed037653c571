"""Lists of what is never downloaded, or never kept: domains, URLs, and contents by their hash."""

import hashlib
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from yarl import URL

from pairsift.stages.base import ConfigError
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.urls import parse_url
from pairsift.stages.fates import Failure
from pairsift.stages.storage import absolute

_DIGEST_BYTES = {"md5": 16, "sha1": 20, "sha256": 32}
_HASH_OF_LENGTH = {2 * size: name for name, size in _DIGEST_BYTES.items()}  # by hex digits


class BlocklistFiles(BaseModel):
    """One entry per line; `#` begins a comment; compressed files are read as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: str | None = Field(None, description="file of domains: each blocks itself and all below it; blocked_domain")
    urls: str | None = Field(None, description="file of URLs, or of their md5, sha1 or sha256; blocked_url")
    md5: str | None = Field(None, description="file of hashes of bodies as they came; blocked_content")
    sha1: str | None = Field(None, description="file of hashes of bodies as they came; blocked_content")
    sha256: str | None = Field(None, description="file of hashes of bodies as they came; blocked_content")

    @field_validator("*")
    @classmethod
    def _for_every_worker(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    def given(self) -> dict[str, str]:
        """Kind → file, of those that are set."""
        return {kind: file for kind, file in self if file is not None}

    def identity(self) -> str:
        """A hash over the files' contents, wherever they lie; empty if there are none. Raises ConfigError."""
        if not self.given():
            return ""
        digest = hashlib.blake2b(digest_size=16)
        for kind, file in sorted(self.given().items()):
            digest.update(f"{kind}\n".encode())
            for entry in _entries(file):
                digest.update(f"{entry}\n".encode())
        return f"blocklists {digest.hexdigest()}"


class Blocklists:
    """The lists in memory: domains as a set, hashes packed side by side."""

    def __init__(self, files: BlocklistFiles) -> None:
        """Raises ConfigError for a file that cannot be read, or a line that is none."""
        given = files.given()
        self._domains = frozenset(map(_domain, _entries(given["domains"]))) if "domains" in given else frozenset()
        self._urls = _url_digests(given["urls"]) if "urls" in given else {}
        self._contents = {name: _digests(given[name], name) for name in _DIGEST_BYTES if name in given}

    @property
    def of_content(self) -> bool:
        """Whether there is a list of bodies' hashes."""
        return bool(self._contents)

    def check_url(self, url: URL, text: str | None = None) -> None:
        """`text`: the URL as the list of URLs spells it. Raises FetchError: BLOCKED_DOMAIN or BLOCKED_URL."""
        if self._domains:
            labels = (url.raw_host or "").lower().rstrip(".").split(".")
            for start in range(len(labels)):
                domain = ".".join(labels[start:])
                if domain in self._domains:
                    raise FetchError(Failure.BLOCKED_DOMAIN, domain)
        spellings = {_requested(url), str(url), text or str(url)} if self._urls else set()
        for name, digests in self._urls.items():
            for spelling in spellings:
                if _holds(digests, _hash(name, spelling.encode("utf-8", "surrogatepass"))):
                    raise FetchError(Failure.BLOCKED_URL, f"by its {name}")

    def check_content(self, body: bytes) -> None:
        """Raises FetchError: BLOCKED_CONTENT."""
        for name, digests in self._contents.items():
            if _holds(digests, _hash(name, body)):
                raise FetchError(Failure.BLOCKED_CONTENT, f"by its {name}")


def _spellings(entry: str) -> set[str]:
    """A listed URL as it is, and as it would be requested."""
    try:
        return {entry, _requested(parse_url(entry))}
    except FetchError:
        return {entry}


def _requested(url: URL) -> str:
    """One spelling for all URLs that ask a host for the same: without user, password, default port and fragment."""
    port = None if url.is_default_port() else url.explicit_port
    return str(url.with_user(None).with_port(port).with_fragment(None))


def _hash(name: str, data: bytes) -> bytes:
    return hashlib.new(name, data, usedforsecurity=False).digest()


def _holds(digests: Any, digest: bytes) -> bool:
    """Whether a sorted array of digests (NumPy's S type, which sorts as bytes do) holds one."""
    at = int(np.searchsorted(digests, np.bytes_(digest)))
    return at < len(digests) and digests[at : at + 1].tobytes() == digest


def _packed(digests: list[bytes], name: str) -> Any:
    return np.sort(np.array(digests, dtype=f"S{_DIGEST_BYTES[name]}"))


def _digests(file: str, name: str) -> Any:
    return _packed([_digest(file, entry, name) for entry in _entries(file)], name)


def _url_digests(file: str) -> dict[str, Any]:
    """Hash name → digests. URLs in plain text are hashed here, so that a list of them costs no more memory."""
    found: dict[str, list[bytes]] = {}
    for entry in _entries(file):
        if "://" in entry:
            found.setdefault("sha256", []).extend(_hash("sha256", spelling.encode()) for spelling in _spellings(entry))
        else:
            name = _HASH_OF_LENGTH.get(len(entry), "sha256")
            found.setdefault(name, []).append(_digest(file, entry, name))
    return {name: _packed(digests, name) for name, digests in found.items()}


def _digest(file: str, entry: str, name: str) -> bytes:
    try:
        digest = bytes.fromhex(entry)
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES[name]:
        raise ConfigError(f"blocklists: {file}: {entry[:80]!r} is no {name}: {2 * _DIGEST_BYTES[name]} hex digits")
    return digest


def _domain(entry: str) -> str:
    """As URLs have it: lower case, IDNA, without the dots and wildcards that lists put in front."""
    name = entry.lower().removeprefix("*").strip(".")
    try:
        return URL.build(scheme="http", host=name).raw_host or name
    except ValueError:
        raise ConfigError(f"blocklists: domains: {entry[:80]!r} is no domain") from None


def _entries(file: str) -> Iterator[str]:
    try:
        with fsspec.open(file, "rt", encoding="utf-8-sig", compression="infer") as lines:
            for line in lines:
                # A hash sign inside a URL begins a fragment; a comment stands at a line's beginning or after a blank.
                entry = line if "#" not in line else "" if line.lstrip().startswith("#") else line.split(" #")[0]
                if entry.strip():
                    yield entry.strip()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"blocklists: {file} cannot be read: {error}") from None
