"""Dual encoders in transformers' CLIP format. Imports torch: import it only where a model is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from pairsift.stages.base import ConfigError
from pairsift.stages.embed.encoder import Floats, unit

# Tokens are at most some 60 characters long, so this many per token never changes the outcome; a caption of megabytes
# would otherwise be tokenised in full before it is cut.
_CHARACTERS_PER_TOKEN = 64


class ClipEncoder:
    """A checkpoint loaded from a folder, with the folder's own image processor and tokenizer.

    Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    """

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        """`dtype`: float32, bfloat16 or float16. Raises ConfigError for weights that do not fit the configuration."""
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._model = _load(folder).to(device=self._device, dtype=self._dtype).eval()
        _align(self._model)
        self._processor = load_processor(folder)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokens: int = self._model.config.text_config.max_position_embeddings

    @property
    def dim(self) -> int:
        return int(self._model.config.projection_dim)

    def prepare(self, image: NDArray[np.uint8]) -> Floats:
        """Resized, cropped and normalised as the checkpoint's preprocessor_config.json says."""
        # The layout is said, never guessed: an image 3 pixels high would be taken for channels.
        prepared = self._processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        return np.asarray(prepared, dtype=np.float32)

    @torch.inference_mode()
    def encode_images(self, prepared: Sequence[Floats]) -> Floats:
        # Stacked by torch, whose memory is aligned the same way every time; NumPy's is not, and sums depend on it.
        pixels = torch.stack([torch.from_numpy(image) for image in prepared]).to(device=self._device, dtype=self._dtype)
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return self._to_unit(self._model.visual_projection(pooled))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Floats:
        limit = self._tokens * _CHARACTERS_PER_TOKEN
        tokens = self._tokenizer(
            [text.strip()[:limit] for text in texts],
            padding=True,
            truncation=True,
            max_length=self._tokens,
            return_tensors="pt",
        ).to(self._device)
        pooled = self._model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return self._to_unit(self._model.text_projection(pooled))

    def _to_unit(self, vectors: torch.Tensor) -> Floats:
        return unit(vectors.float().cpu().numpy())


def load_processor(folder: Path) -> Any:
    """The folder's image processor in the PIL-based version, whose pixels are those CLIP was trained with."""
    return CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)


def _load(folder: Path) -> Any:
    """The model on the CPU. safetensors are preferred; pickled weights are read with `weights_only`, so no code runs."""
    loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, weights_only=True, output_loading_info=True)
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers
        lacking = f"lack {len(missing)} tensors that its config.json asks for, such as {missing[0]}"
        raise ConfigError(f"embed: the weights in {folder} {lacking}")
    return model


def _align(model: torch.nn.Module) -> None:
    """Moves the weights out of the mapped file: how they lie there would change the last bit of the results."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
