"""Files of a model on the hub, at one commit. Never imports torch."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from pairsift.stages.base import ConfigError

# The hub's own rule for names: "name" or "owner/name" of these characters.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TIMEOUT = 10.0  # seconds


def is_name(model: str) -> bool:
    """Whether the hub could have a repository of this name."""
    return bool(_NAME.fullmatch(model))


@functools.lru_cache(maxsize=64)  # asks the hub once per process, so that one run sees one commit
def find(where: str, model: str, revision: str | None, file: str, instead: str) -> tuple[str, Path]:
    """(commit, folder in the hub's cache) of a repository that has `file`. Where the hub cannot be reached, what its cache
    holds will do.

    Raises ConfigError, which begins with `where`, and where something else may be tried ends with `instead`.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    try:
        reachable = _is_reachable(model, revision, file)
        found = Path(hf_hub_download(model, file, revision=revision, local_files_only=not reachable))
    except hub.GatedRepoError as error:
        raise ConfigError(f"{where} is gated on the hub: accept its terms there and log in, or {instead}") from error
    except hub.RevisionNotFoundError as error:
        raise ConfigError(f"{where} has no revision {revision!r} on the hub") from error
    except hub.RepositoryNotFoundError as error:
        raise ConfigError(f"{where} is not a folder here, and the hub knows no such name; {instead}") from error
    except hub.LocalEntryNotFoundError as error:
        raise ConfigError(f"{where} cannot be fetched: no network or no hub, and not in its cache; {instead}") from error
    except hub.EntryNotFoundError as error:
        raise ConfigError(f"{where} has no {file} on the hub, so it is not what is wanted here; {instead}") from error
    except hub.HFValidationError as error:
        raise ConfigError(f"{where} is not a name that the hub allows; {instead}") from error
    return found.parent.name, found.parent


def download(model: str, commit: str, patterns: Sequence[str]) -> Path:
    """The folder in the hub's cache with at least the files that match one of the patterns."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=commit, allow_patterns=list(patterns)))


def _is_reachable(model: str, revision: str | None, file: str) -> bool:
    """Whether the hub answers. Asks once: the hub's client itself would try for half a minute, and say so line by line.

    Raises the hub's own errors for what it answers that it has not.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # The HTTP library under the hub's client changes with its version; the root of its errors is the first base of this one.
    transport_error: type[Exception] = hub.HfHubHTTPError.__bases__[0]
    try:
        get_hf_file_metadata(hf_hub_url(model, file, revision=revision), timeout=_TIMEOUT)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.EntryNotFoundError):
        raise
    except (transport_error, OSError):
        return False
    return True
