"""Input files: listing them through fsspec, and opening them.

A local file's uri is its absolute path; any other's is its full URL (`s3://bucket/a.parquet`).
"""

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_compression

from pairsift.stages.base import ConfigError, Source

READ_BUFFER = 1 << 20  # bytes asked of the file system at once

# What file systems call a file's version, the surest first: a content hash, then times.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "contentHash",
    "mtime",
    "LastModified",
    "last_modified",
    "modified",
    "updated",
    "created",
)


# Packages behind object stores, which raise errors of their own (no credentials, no such bucket) beside OSError.
_STORE_PACKAGES = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"})


def list_sources(paths: str | Sequence[str], extensions: Iterable[str]) -> list[Source]:
    """The files that paths name: in the order of the paths, sorted by name within each, none twice.

    A path is a file, a folder or a glob, local or any fsspec URL. A folder stands for the files right inside it that have one
    of the extensions (lower case, without the dot, any compression suffix aside) and whose names do not start with "." or "_".
    A glob's matches are not held to extensions, but such hidden names are left out unless the glob asks for them.

    Raises:
        ConfigError: where a path matches nothing, or its file system cannot be reached or is not installed.
    """
    known = frozenset(extensions)
    found: dict[str, Source] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        for source in _listed(path, known):
            found.setdefault(source.uri, source)
    return list(found.values())


def expanded(paths: str | Sequence[str]) -> list[str]:
    """The paths with their brace patterns (`{00000..00099}.tar`) written out, as in webdataset. A local file or folder that is
    called so is taken by its name. Raises ConfigError for braces that do not match."""
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        if "{" not in path or ("://" not in path and Path(path).exists()):
            found.append(path)
            continue
        try:
            found += braceexpand(path)
        except ValueError as error:
            raise ConfigError(f"{path} has braces that do not match") from error
    return found


def extension(uri: str) -> str:
    """The name's last extension in lower case, without the dot and not counting a compression suffix: "csv" of a.CSV.gz."""
    name = Path(uri.split("?", maxsplit=1)[0] if "://" in uri else uri).name
    if infer_compression(name.lower()):
        name = name.rpartition(".")[0]
    return name.rpartition(".")[2].lower() if "." in name else ""


@contextmanager
def open_source(uri: str, *, decompress: bool, buffered: bool = True) -> Iterator[IO[bytes]]:
    """A binary file, seekable where it is not decompressed on the way. Errors are the file system's own, mostly OSError.

    A local file may be asked for without a buffer; any other is read in pieces of READ_BUFFER, all the same."""
    compression = infer_compression(uri.lower()) if decompress else None
    if "://" not in uri and compression is None:
        with open(uri, "rb", buffering=READ_BUFFER if buffered else 0) as local:
            yield local
        return
    filesystem, path = _filesystem(uri)
    with fsspec.core.OpenFile(filesystem, path, mode="rb", compression=compression) as opened:
        if compression and hasattr(opened, "readline"):
            # A large buffer around gzip's own would lose all that it holds where the file breaks off.
            yield opened
        else:
            yield io.BufferedReader(opened, READ_BUFFER)


@contextmanager
def open_arrow(uri: str) -> Iterator[pa.NativeFile | IO[bytes]]:
    """The same for Arrow's readers: a local file is read by Arrow itself, which spares a copy."""
    with pa.OSFile(uri) if "://" not in uri else open_source(uri, decompress=False) as file:
        yield file


def _filesystem(path: str) -> tuple[Any, str]:
    """The file system of a path, and the path in its terms. A path without "://" is local, whatever else it holds."""
    if "://" not in path:
        return LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {_one_line(error)}") from error
    return filesystem, inner


def _listed(path: str, known: frozenset[str]) -> list[Source]:
    if not path:
        raise ConfigError("an input path is empty: give a file, a folder, a glob or a URL")
    filesystem, inner = _filesystem(path)
    try:
        filesystem.invalidate_cache()  # a listing of an earlier run in this process must not hide new files
        infos = _infos(filesystem, path, inner, known)
    except ConfigError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and type(error).__module__.split(".")[0] not in _STORE_PACKAGES:
            raise
        raise ConfigError(f"cannot list {path}: {_one_line(error)}") from error
    return sorted((_source(filesystem, info) for info in infos), key=lambda source: source.uri)


def _infos(filesystem: Any, path: str, inner: str, known: frozenset[str]) -> list[dict[str, Any]]:
    """What the file system tells of each file that one path names. A name that exists is never read as a glob."""
    if filesystem.isfile(inner):
        return [filesystem.info(inner)]
    if filesystem.isdir(inner):
        infos = [info for info in filesystem.ls(inner, detail=True) if _is_file(filesystem, info) and not _hidden(info["name"])]
        infos = [info for info in infos if extension(info["name"]) in known]
        if not infos:
            raise ConfigError(
                f"nothing matches {path}: the folder itself has no file of a known kind ({', '.join(sorted(known))}); "
                f"{path.rstrip('/')}/**/* would look below it"
            )
        return infos
    if not glob.has_magic(inner):
        raise ConfigError(f"nothing matches {path}: there is no such file or folder")
    asked = inner.rpartition("/")[2].startswith((".", "_"))
    matches = filesystem.glob(inner, detail=True).values()
    infos = [info for info in matches if _is_file(filesystem, info) and (asked or not _hidden(info["name"]))]
    if not infos:
        raise ConfigError(f"nothing matches {path}: no file has such a name")
    return infos


def _is_file(filesystem: Any, info: dict[str, Any]) -> bool:
    """A local symbolic link is listed as a link, whatever it points to."""
    return bool(info["type"] == "file" or (info["type"] != "directory" and filesystem.isfile(info["name"])))


def _source(filesystem: Any, info: dict[str, Any]) -> Source:
    if isinstance(filesystem, LocalFileSystem):
        found = os.stat(info["name"])
        return Source(uri=info["name"], size=found.st_size, version=str(found.st_mtime_ns))
    return Source(uri=filesystem.unstrip_protocol(info["name"]), size=info.get("size"), version=_version(info))


def _version(info: dict[str, Any]) -> str:
    """The same for a file whether it was listed or asked for by name: some file systems give a time as a number in the one
    case and as a datetime in the other."""
    value = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    if isinstance(value, datetime):
        value = value.timestamp()
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _hidden(name: str) -> bool:
    return name.rstrip("/").rpartition("/")[2].startswith((".", "_"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
