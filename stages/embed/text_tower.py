"""A text tower in a repository of its own, in sentence-transformers' layout, beside the image tower of another checkpoint.

    modules.json            what follows what: a transformer, a pooling (mean or first token), maybe a linear layer
    config.json, model.safetensors, tokenizer     of the transformer
    1_Pooling/config.json
    2_Dense/config.json, model.safetensors        weights as `linear.weight`, `linear.bias`

So is multilingual CLIP made (sentence-transformers/clip-ViT-B-32-multilingual-v1, https://arxiv.org/abs/2004.09813): DistilBERT
in 50 languages that gives the vectors of CLIP's English text tower. Never imports torch at the top.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import hub
from pairsift.stages.embed.encoder import Encoder, Floats, Prepared, Tokens, unit

_KINDS = {"Transformer", "Pooling", "Dense", "Normalize"}
_CHARACTERS_PER_TOKEN = 64  # as in dual.py
_SETTINGS = ("modules.json", "*config.json")  # enough to know what it is
_ALL = ("*.json", "*.txt", "*.model", "*.safetensors")
_INSTEAD = "use a folder in sentence-transformers' layout"


class Files(NamedTuple):
    """A text tower whose settings have been read; paths are of its modules' folders."""

    transformer: Path
    first_token: bool  # pooling: the first token's vector, else the mean of all
    dense: Path | None
    dim: int
    commit: str | None = None  # on the hub, of which there may be the settings alone until `fetch`; None for a folder

    @property
    def identity(self) -> str:
        """The commit on the hub, or a hash over the names and contents of all files of the modules."""
        if self.commit:
            return self.commit
        digest = hashlib.sha256(str(self.first_token).encode())
        for folder in (self.transformer, self.dense):
            for file in sorted(folder.iterdir()) if folder else ():
                if file.suffix in (".json", ".txt", ".model", ".safetensors") and file.is_file():
                    digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                    digest.update(file.read_bytes())
        return digest.hexdigest()


def locate(model: str, revision: str | None = None) -> Files:
    """The text tower in the folder `model`, or else of this name on the hub.

    Raises ConfigError where it is none, of parts that are not known here, or cannot be reached.
    """
    folder, commit, where = Path(model).expanduser(), None, f"embed: text_model {model!r}"
    if not folder.exists() and hub.is_name(model):
        commit, _ = hub.find(where, model, revision, "modules.json", _INSTEAD)
        folder = hub.download(model, commit, _SETTINGS)
    elif not (folder / "modules.json").is_file():
        raise ConfigError(f"{where} is no folder with a modules.json, as sentence-transformers writes it")
    elif revision is not None:
        raise ConfigError(f"embed: text_revision {revision!r} is for names on the hub, but text_model {model!r} is a folder")
    return _read(folder, where)._replace(commit=commit)


def fetch(model: str, files: Files) -> Files:
    """The tower with all its files on this machine; downloads at the very commit that was located."""
    if files.commit is not None:
        hub.download(model, files.commit, _ALL)
        files = locate(model, files.commit)
    for folder in (files.transformer, files.dense):
        if folder is not None and not any(folder.glob("*.safetensors")):
            raise ConfigError(f"embed: text_model {model!r} has no weights in safetensors")
    return files


def _read(folder: Path, where: str) -> Files:
    modules = _json(folder / "modules.json", where)
    paths = {module["type"].rpartition(".")[2]: folder / module["path"] for module in modules}
    if not {"Transformer", "Pooling"} <= paths.keys() <= _KINDS:
        raise ConfigError(f"{where} is made of {', '.join(paths)}; what can be used is Transformer, Pooling, Dense, Normalize")
    pooling = _json(paths["Pooling"] / "config.json", where)
    first = _pools(pooling, "cls")
    if first == _pools(pooling, "mean"):
        raise ConfigError(f"{where} pools in a way that is not known here; mean or first token is right")
    transformer = _json(paths["Transformer"] / "config.json", where)
    dim = transformer.get("hidden_size") or transformer.get("dim")
    if "Dense" in paths:
        dense = _json(paths["Dense"] / "config.json", where)
        if not str(dense.get("activation_function")).endswith("Identity"):
            raise ConfigError(f"{where}: its Dense layer ends in {dense.get('activation_function')}; Identity is known here")
        dim = dense["out_features"]
    return Files(paths["Transformer"], first, paths.get("Dense"), int(dim))


def _pools(pooling: dict[str, Any], way: str) -> bool:
    return bool(pooling.get(f"pooling_mode_{way}_token{'s' if way == 'mean' else ''}")) or pooling.get("pooling_mode") == way


def _json(file: Path, where: str) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: {file.name} cannot be read: {error}") from error


class TextTower:
    """The tower, loaded. Raises ConfigError for weights that do not fit the configuration."""

    def __init__(self, files: Files, device: str, dtype: str) -> None:
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoTokenizer

        self._first_token = files.first_token
        self.dim = files.dim
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        loaded: Any = AutoModel.from_pretrained(
            files.transformer, local_files_only=True, weights_only=True, output_loading_info=True, dtype=torch.float32
        )
        model, report = loaded
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)  # which is not used
        if missing:
            raise ConfigError(f"embed: the weights in {files.transformer} lack {len(missing)} tensors, such as {missing[0]}")
        self._model = model.to(device=self._device, dtype=self._dtype).eval()
        for parameter in self._model.parameters():  # out of the mapped file: its alignment would change the last bit
            parameter.data = parameter.data.clone()
        self._dense: Any = None
        if files.dense is not None:
            weights = load_file(files.dense / "model.safetensors")
            out, width = weights["linear.weight"].shape
            self._dense = torch.nn.Linear(width, out, bias="linear.bias" in weights)
            self._dense.load_state_dict({name.removeprefix("linear."): value for name, value in weights.items()})
            self._dense = self._dense.to(device=self._device, dtype=self._dtype)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(files.transformer, local_files_only=True)
        settings = files.transformer / "sentence_bert_config.json"
        asked = json.loads(settings.read_bytes()).get("max_seq_length") if settings.is_file() else None
        self._tokens = int(min(asked or self._tokenizer.model_max_length, model.config.max_position_embeddings))

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        limit = self._tokens * _CHARACTERS_PER_TOKEN
        rows = self._tokenizer([text.strip()[:limit] for text in texts], truncation=True, max_length=self._tokens)["input_ids"]
        return [tuple(row) for row in rows]

    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        """(n, dim), rows of length 1."""
        import torch

        length = max(map(len, tokens))
        ids = torch.full((len(tokens), length), self._tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros((len(tokens), length), dtype=torch.long)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1
        with torch.inference_mode():
            ids, mask = ids.to(self._device), mask.to(self._device)
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            shares = (mask / mask.sum(dim=1, keepdim=True)).to(self._dtype)
            pooled = hidden[:, 0] if self._first_token else (hidden * shares[..., None]).sum(dim=1)
            vectors = pooled if self._dense is None else self._dense(pooled)
            return unit(vectors.float().cpu().numpy())


class TwoTowers:
    """The images' side of one encoder, and a text tower."""

    def __init__(self, images: Encoder | None, texts: TextTower) -> None:
        """`images`: None where no image is ever given."""
        self._of_images = images
        self._texts = texts

    @property
    def dim(self) -> int:
        return self._texts.dim

    @property
    def _images(self) -> Encoder:
        assert self._of_images is not None, "`only: texts` gives no images"
        return self._of_images

    def decode(self, encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
        return self._images.decode(encoded)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        return self._images.prepare(image)

    def stack(self, prepared: Sequence[Prepared]) -> Any:
        return self._images.stack(prepared)

    def encode_images(self, batch: Any) -> Floats:
        return self._images.encode_images(batch)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return self._texts.tokenize(texts)

    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        return self._texts.encode_texts(tokens)
