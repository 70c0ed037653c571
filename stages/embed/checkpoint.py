"""Where an encoder's checkpoint is, and what can be known of it without loading it. Never imports torch.

It is what transformers' `save_pretrained` writes: config.json, weights, image processor and, where it takes texts, tokenizer.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import families, hub

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # in order of preference; a repository may hold other copies besides
_SETTINGS = ("*.json", "*.txt", "*.model")  # configuration, tokenizer, image processor
_TOKENIZER = ("vocab.json", "vocab.txt", "tokenizer.json", "*.model")
_ALTERNATIVES = "use a folder with a CLIP checkpoint, or `model: embedded`"


class Checkpoint(NamedTuple):
    """A checkpoint whose configuration has been read."""

    folder: Path  # on this machine; from the hub, it may hold config.json alone until `fetch`
    commit: str | None  # on the hub; None for a folder
    dim: int  # length of its embeddings
    images_only: bool = False  # an encoder that takes no texts


def locate(model: str, revision: str | None) -> Checkpoint:
    """The checkpoint that `model` names: an existing folder, or else a name on the hub.

    Raises ConfigError where there is none, where it cannot be reached, or where it is not of a known family.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        commit = None
        _require_folder(model, folder, revision)
    elif hub.is_name(model):
        commit, folder = hub.find(f"embed: model {model!r}", model, revision, "config.json", _ALTERNATIVES)
    else:
        raise ConfigError(f"embed: model {model!r} is neither an existing folder nor a name on the hub like owner/name")
    config = _config(model, folder / "config.json")
    return Checkpoint(folder, commit, families.dimension(config), _takes_images_only(config))


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
    for weights in _WEIGHTS:
        folder = hub.download(model, checkpoint.commit, [*_SETTINGS, weights])
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
    }
    config_file = folder / "config.json"
    if not (config_file.is_file() and _takes_images_only(_config(model, config_file))):
        needed["a tokenizer (vocab.json and merges.txt, or tokenizer.json)"] = _TOKENIZER
    missing = [what for what, patterns in needed.items() if not _files(folder, patterns)]
    if missing:
        raise ConfigError(f"embed: model {model!r} is a folder without {', '.join(missing)}: not a CLIP checkpoint")


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _takes_images_only(config: dict[str, Any]) -> bool:
    return config["model_type"] in families.IMAGE_FAMILIES


def _config(model: str, config_file: Path) -> dict[str, Any]:
    """The configuration of a checkpoint of a known family."""
    try:
        config: dict[str, Any] = json.loads(config_file.read_bytes())
        family = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"embed: model {model!r}: its config.json is not a JSON object") from error
    if families.family(config) is None:
        raise ConfigError(
            f"embed: model {model!r} is of the family {family!r}; only dual encoders with a model_type of "
            f"{', '.join(families.FAMILIES)} can be used, and with `only: images` also {', '.join(families.IMAGE_FAMILIES)}"
        )
    return config
