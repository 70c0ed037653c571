"""Lists in files: one entry a line, or a JSON list of strings."""

import hashlib
import json

import fsspec

from pairsift.stages.base import ConfigError


def read_list(use: str, path: str) -> list[str]:
    """The entries in their order, blank ones included. A file called .json (compressed or not) holds a JSON list of strings.

    Raises ConfigError, in the name of the stage `use`, where there is no such file, or it is no list of text.
    """
    text = _text(use, path)
    if not path.removesuffix(".gz").endswith(".json"):
        return text.splitlines()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{use}: {path} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise ConfigError(f"{use}: {path} must hold a JSON list of strings")
    return found


def list_identity(use: str, path: str) -> str:
    """A hash over a list's text, wherever it lies. Raises ConfigError."""
    return hashlib.blake2b(_text(use, path).encode(), digest_size=16).hexdigest()


def _text(use: str, path: str) -> str:
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as stream:
            text: str = stream.read()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{use}: {path} cannot be read: {' '.join(str(error).split())}") from None
    return text
