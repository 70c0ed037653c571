"""NumPy's files as streams: rows of a two-dimensional array, from an .npz archive or an .npy file. Nothing is unpickled."""

import re
import zipfile
from contextlib import ExitStack
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.sources import open_source

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_TOO_LATE = "input.vectors: what it names must be there before rows are taken in"


class Array(NamedTuple):
    """One array of floats, at its next row."""

    file: IO[bytes]
    rows: int
    width: int
    dtype: np.dtype
    name: str  # how messages call it

    def take(self, rows: int) -> NDArray[np.float32]:
        """The next rows, (rows, width). Raises ConfigError where the file ends before they do."""
        size = rows * self.width * self.dtype.itemsize
        try:
            data = self.file.read(size)
        except (EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{self.name} is damaged: {error}") from error
        if len(data) < size:
            raise ConfigError(f"{self.name} is cut short: its header promises {self.rows} rows")
        with np.errstate(over="ignore"):  # a double beyond float32 is infinite here, and its row is told so
            return np.frombuffer(data, self.dtype).astype(np.float32).reshape(rows, self.width)


def open_npy(stack: ExitStack, path: str) -> Array:
    """The array of an .npy file. Raises ConfigError where it cannot be read, or holds no vector for each row."""
    try:
        file = stack.enter_context(open_source(path, decompress=False))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}; {_TOO_LATE}") from error
    return _array(file, path)


def open_npz(stack: ExitStack, path: str, member: str) -> Array:
    """An array of an .npz archive, by its name. Raises ConfigError as `open_npy` does."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_source(path, decompress=False))))
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: {error}; {_TOO_LATE}") from error
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    if member not in found:
        raise ConfigError(f"{path} has no array {member!r}; it has {', '.join(sorted(found))}")
    return _array(stack.enter_context(archive.open(f"{member}.npy")), f"{path}: {member!r}")


def beside(uri: str, pattern: str) -> str:
    """The file that `pattern` means for the file `uri`: relative to its folder, and `{}` is the number at the end of its name.

    Raises ConfigError where there is a `{}` and no number.
    """
    folder, _, name = uri.rpartition("/")
    if "{}" in pattern:
        number = re.search(r"\d+$", name.rpartition(".")[0])
        if number is None:
            raise ConfigError(f"input.vectors: {pattern!r} asks for a number at the end of a file's name; {name!r} has none")
        pattern = pattern.replace("{}", number[0])
    if "://" in pattern or pattern.startswith("/"):
        return pattern
    while pattern.startswith("../"):
        folder, pattern = folder.rpartition("/")[0], pattern.removeprefix("../")
    return f"{folder}/{pattern.removeprefix('./')}"


def _array(file: IO[bytes], name: str) -> Array:
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{name} is no array: {error}") from error
    if len(shape) != 2 or by_columns or dtype.kind != "f" or not shape[1]:
        raise ConfigError(f"{name} is {dtype} of shape {shape}, not a vector of floats for each row")
    return Array(file, shape[0], shape[1], dtype, name)
