"""Where a CLIP-format checkpoint is, and what can be known of it without loading it. Never imports torch.

CLIP format is what transformers' `CLIPModel.save_pretrained` writes: config.json, weights, tokenizer, image processor.
"""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import families

# The hub's own rule for names: "name" or "owner/name" of these characters.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # in order of preference; a repository may hold other copies besides
_SETTINGS = ("*.json", "*.txt", "*.model")  # configuration, tokenizer, image processor
_HUB_TIMEOUT = 10.0  # seconds
_ALTERNATIVES = "use a folder with a CLIP checkpoint, or `model: embedded`"


class Checkpoint(NamedTuple):
    """A checkpoint whose configuration has been read."""

    folder: Path  # on this machine; from the hub, it may hold config.json alone until `fetch`
    commit: str | None  # on the hub; None for a folder
    dim: int  # length of its embeddings


def locate(model: str, revision: str | None) -> Checkpoint:
    """The checkpoint that `model` names: an existing folder, or else a name on the hub.

    Raises ConfigError where there is none, where it cannot be reached, or where it is not of the CLIP family.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        commit = None
        _require_folder(model, folder, revision)
    elif _HUB_NAME.fullmatch(model):
        commit, folder = _find_on_hub(model, revision)
    else:
        raise ConfigError(f"embed: model {model!r} is neither an existing folder nor a name on the hub like owner/name")
    return Checkpoint(folder, commit, _dimension(model, folder / "config.json"))


def identity(checkpoint: Checkpoint) -> str:
    """The commit on the hub, or a hash over the names and contents of the files that results depend on."""
    if checkpoint.commit:
        return checkpoint.commit
    digest = hashlib.sha256()
    for file in _files(checkpoint.folder, _SETTINGS + _WEIGHTS):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def fetch(model: str, checkpoint: Checkpoint) -> Path:
    """The checkpoint's folder with all its files on this machine; downloads at the very commit that was located.

    safetensors are taken where the repository has them; a pickled `pytorch_model.bin` only where it has not.
    """
    if checkpoint.commit is None:
        return checkpoint.folder
    from huggingface_hub import snapshot_download

    for weights in _WEIGHTS:
        folder = Path(snapshot_download(model, revision=checkpoint.commit, allow_patterns=[*_SETTINGS, weights]))
        if _files(folder, (weights,)):
            return folder
    raise ConfigError(f"embed: model {model!r} has no weights in CLIP format ({' or '.join(_WEIGHTS)})")


def _require_folder(model: str, folder: Path, revision: str | None) -> None:
    if not folder.is_dir():
        raise ConfigError(f"embed: model {model!r} is a file; it must be a folder with a CLIP checkpoint")
    if revision is not None:
        raise ConfigError(f"embed: revision {revision!r} is for names on the hub, but model {model!r} is a folder")
    needed = {
        "config.json": ("config.json",),
        "weights (model.safetensors)": _WEIGHTS,
        "an image processor (preprocessor_config.json)": ("preprocessor_config.json", "processor_config.json"),
        "a tokenizer (vocab.json and merges.txt, or tokenizer.json)": ("vocab.json", "vocab.txt", "tokenizer.json", "*.model"),
    }
    missing = [what for what, patterns in needed.items() if not _files(folder, patterns)]
    if missing:
        raise ConfigError(f"embed: model {model!r} is a folder without {', '.join(missing)}: not a CLIP checkpoint")


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


@functools.lru_cache(maxsize=64)  # asks the hub once per process, so that one run sees one commit
def _find_on_hub(model: str, revision: str | None) -> tuple[str, Path]:
    """(commit, folder in the hub's cache). Where the hub cannot be reached, what its cache holds will do."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    where = f"embed: model {model!r}"
    try:
        reachable = _is_reachable(model, revision)
        config = Path(hf_hub_download(model, "config.json", revision=revision, local_files_only=not reachable))
    except hub.GatedRepoError as error:
        raise ConfigError(f"{where} is gated on the hub: accept its terms there and log in, or {_ALTERNATIVES}") from error
    except hub.RevisionNotFoundError as error:
        raise ConfigError(f"{where} has no revision {revision!r} on the hub") from error
    except hub.RepositoryNotFoundError as error:
        raise ConfigError(f"{where} is not a folder here, and the hub knows no such name; {_ALTERNATIVES}") from error
    except hub.LocalEntryNotFoundError as error:
        raise ConfigError(f"{where} cannot be fetched: no network or no hub, and not in its cache; {_ALTERNATIVES}") from error
    except hub.EntryNotFoundError as error:
        raise ConfigError(f"{where} has no config.json on the hub: not a checkpoint in transformers' CLIP format") from error
    except hub.HFValidationError as error:
        raise ConfigError(f"{where} is not a name that the hub allows; {_ALTERNATIVES}") from error
    return config.parent.name, config.parent


def _is_reachable(model: str, revision: str | None) -> bool:
    """Whether the hub answers. Asks once: the hub's client itself would try for half a minute, and say so line by line.

    Raises the hub's own errors for what it answers that it has not.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # The HTTP library under the hub's client changes with its version; the root of its errors is the first base of this one.
    transport_error: type[Exception] = hub.HfHubHTTPError.__bases__[0]
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json", revision=revision), timeout=_HUB_TIMEOUT)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.EntryNotFoundError):
        raise
    except (transport_error, OSError):
        return False
    return True


def _dimension(model: str, config_file: Path) -> int:
    """Length of the vectors, by the configuration of a known family."""
    try:
        config: dict[str, Any] = json.loads(config_file.read_bytes())
        family = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"embed: model {model!r}: its config.json is not a JSON object") from error
    if families.family(config) is None:
        raise ConfigError(
            f"embed: model {model!r} is of the family {family!r}; only dual encoders with a model_type of "
            f"{', '.join(families.FAMILIES)} can be used"
        )
    return families.dimension(config)
