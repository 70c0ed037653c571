"""Folders on a disk or in an object store, through fsspec: atomic writes, listings, byte ranges.

A file appears under its final name whole or not at all: on a local disk by write, fsync and rename; on an object store
by one PUT. Paths are relative to the folder, with "/" between parts.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import fsspec


def is_remote(uri: str) -> bool:
    """Whether a URI is not on a local disk."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """The same place for every process, whatever its working directory: local paths become absolute."""
    return uri if is_remote(uri) else os.path.abspath(uri.removeprefix("file://"))


class Folder:
    """One folder. Cheap to make and to pickle; the file system is opened on first use in each process."""

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri).rstrip("/") or "/"

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.uri,)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.path(name))

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system behind it."""
        return fsspec.core.url_to_fs(self.uri)[0]

    @property
    def local(self) -> bool:
        return not is_remote(self.uri)

    def path(self, name: str) -> str:
        """Full path or URI of one file."""
        return f"{self.uri}/{name}"

    def exists(self, name: str = "") -> bool:
        return bool(self.filesystem.exists(self.path(name) if name else self.uri))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self.filesystem.cat_file(self.path(name)))

    def remove(self, name: str) -> None:
        """Removing what is not there is fine."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path(name))

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files and folders directly in `folder`; none where it does not exist. No temporary files."""
        try:
            entries = self.filesystem.ls(self.path(folder) if folder else self.uri, detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (PurePosixPath(str(entry).rstrip("/")).name for entry in entries)
        return sorted(name for name in names if not name.startswith("."))

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        with self.create(name) as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A file that appears under `name`, replacing an older one, when the block ends without an exception."""
        with self._create_local(name) if self.local else self._create_remote(name) as file:
            yield file

    @contextmanager
    def _create_local(self, name: str) -> Iterator[BinaryIO]:
        final = self.path(name)
        folder, base = os.path.split(final)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{base}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        sync_folder(folder)

    @contextmanager
    def _create_remote(self, name: str) -> Iterator[BinaryIO]:
        file = self.filesystem.open(self.path(name), "wb")
        try:
            yield file
        except BaseException:
            file.discard()
            raise
        file.close()


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
