"""Folders on a disk or in an object store, through fsspec: atomic writes, listings, byte ranges.

A file appears under its final name whole or not at all: on a local disk by write, fsync and rename; on an object store
by one PUT. Paths are relative to the folder, with "/" between parts.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from typing import Any, BinaryIO

import fsspec

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")
# What the system answers to a write where there is no room: the disk, the user's share of it, or a limit on a file's size.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# What a file system without hard links answers.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


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
        path = self.path(folder) if folder else self.uri
        with suppress(FileNotFoundError, NotADirectoryError):
            # fsspec takes four times as long for a disk, which counts where there are a million files.
            names = os.listdir(path) if self.local else self._remote_names(path)
            return sorted(name for name in names if not name.startswith("."))
        return []

    def _remote_names(self, path: str) -> Iterator[str]:
        entries = self.filesystem.ls(path, detail=False, refresh=True)
        # Some stores keep a folder that was emptied, and list it as what is in it.
        itself = self.filesystem._strip_protocol(path).rstrip("/")  # noqa: SLF001 - fsspec has no public word for it
        return (entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != itself)

    def sweep(self, folder: str = "") -> None:
        """Remove temporary files directly in `folder` that writers left which died. Nobody writes there now."""
        if self.local:
            where = self.path(folder) if folder else self.uri
            for name in os.listdir(where) if os.path.isdir(where) else ():
                if _TEMPORARY.fullmatch(name):
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(where, name))

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        with self.create(name) as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A file that appears under `name`, replacing an older one, when the block ends without an exception."""
        with self._create_local(name) if self.local else self._create_remote(name) as file:
            yield file

    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Write a file unless one of this name is there; returns whether it was written.

        Of several writers one wins: on a disk by a hard link, on an object store by a conditional PUT. Where the disk or the
        store has no such thing, it looks first and then writes: two writers at the same moment would both win there.
        """
        if self.exists(name):
            return False
        if not self.local:
            return self._put_new(name, data)
        try:
            with self._whole(name, _link_new) as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def _put_new(self, name: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(self.path(name), data, mode="create")
        except OSError:  # what "precondition failed" becomes differs by store
            self.filesystem.invalidate_cache()
            if self.exists(name):
                return False
            raise
        return True

    def _create_local(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._whole(name, os.replace)

    @contextmanager
    def _whole(self, name: str, publish: Callable[[str, str], None]) -> Iterator[BinaryIO]:
        """A temporary file beside the final name; `publish` moves it there when it is whole and on the disk."""
        final = self.path(name)
        folder, base = os.path.split(final)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{base}.{uuid.uuid4().hex}.tmp")
        try:
            with telling_where(final), open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            publish(temporary, final)
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
            with suppress(AttributeError):  # of a file in memory
                file.closed = True  # else it is closed when it is collected, which writes what is left of it
            raise
        file.close()


@contextmanager
def telling_where(path: str) -> Iterator[None]:
    """A full disk is told as an OSError that names the file: of what is written to an open file, the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(f"{path}: {error.strerror}; make room and run again: what is done is kept") from error


def _link_new(temporary: str, final: str) -> None:
    """Give a file its final name. Raises FileExistsError where the name is taken."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.exists(final):
            raise FileExistsError(final) from None
        os.replace(temporary, final)
    else:
        os.unlink(temporary)


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
