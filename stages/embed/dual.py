"""Dual encoders in transformers' format. Imports torch: import it only where a model is used."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoTokenizer

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import lean, pixels
from pairsift.stages.embed.encoder import Floats, Prepared, Tokens, unit
from pairsift.stages.embed.families import Family, dimension, family

# Tokens are at most some 60 characters long, so this many per token never changes the outcome; a caption of megabytes
# would otherwise be tokenised in full before it is cut.
_CHARACTERS_PER_TOKEN = 64
# Text models that count positions from after the padding token's number, as RoBERTa does: so many fewer tokens fit.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "altclip_text_model", "bridgetower_text_model"}


class DualEncoder:
    """A checkpoint loaded from a folder, with the folder's own image processor and tokenizer.

    Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020; for the other families see docs/models.md.
    """

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        """`dtype`: float32, bfloat16 or float16. Raises ConfigError for weights that do not fit the configuration."""
        config = json.loads((folder / "config.json").read_bytes())
        found = family(config)
        assert found is not None
        self._family: Family = found
        self.dim = dimension(config)
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self.model = self._load(folder)
        self._processor = load_processor(folder)
        self.recipe = pixels.recipe(self._processor)
        self._most: dict[str, int] = {}  # "images", "texts": the largest batch that the device's memory holds, once known
        self._load_tokenizer(folder)

    def _load_tokenizer(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokens = min(_positions(self.model.config), self._tokenizer.model_max_length)
        # Of models that see the padding: where it is, is the tokenizer's word (SigLIP 2's may have it on the left).
        self._pads_left = self._family.pad_full and self._tokenizer.padding_side == "left"

    def _load(self, folder: Path) -> Any:
        model = _load(folder, self._family)
        leaner = self._device.type == "cpu" and self._dtype == torch.bfloat16 and lean.can_pack()
        lean.first_token_only(model)
        if leaner:
            lean.fold_quick_gelu(model)
        model = model.to(device=self._device, dtype=self._dtype).eval()
        _align(model)
        if leaner:
            lean.pack(model)
        return model

    def decode(self, encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
        """(height, width, 3); of an animation, the first frame."""
        return pixels.decode(encoded)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """(3, H, W): uint8 where the settings are the usual; else float32, made by the processor itself."""
        return pixels.own_pixels(self._processor, image) if self.recipe is None else self.recipe.apply(image)

    def stack(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """(n, 3, H, W). For a GPU, bytes stay bytes until they are there: a fourth of the traffic."""
        # Memory of torch's own is aligned the same way every time; NumPy's is not, and sums depend on it.
        if self._device.type == "cuda":
            return torch.stack([torch.from_numpy(image) for image in prepared]).pin_memory()
        batch = torch.empty((len(prepared), *prepared[0].shape), dtype=self._dtype)
        for row, image in zip(batch, prepared, strict=True):  # one by one, as an image fits the core's cache
            row.copy_(self._scaled(torch.from_numpy(image)))
        return batch

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        """uint8 as the network wants it, in float32; what the processor made is so already."""
        if values.dtype != torch.uint8 or self.recipe is None:
            return values
        scale, shift = (torch.tensor(three, device=values.device).view(3, 1, 1) for three in self.recipe[-2:])
        return torch.addcmul(shift, values.to(torch.float32), scale)

    @torch.inference_mode()
    def encode_images(self, batch: torch.Tensor) -> Floats:
        return self._fitting("images", batch, self._images)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        limit = self._tokens * _CHARACTERS_PER_TOKEN
        cut = [text.strip()[:limit] for text in texts]
        rows = self._tokenizer(cut, truncation=True, max_length=self._tokens, padding=False)["input_ids"]
        return [tuple(row) for row in rows]

    @torch.inference_mode()
    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        length = self._tokens if self._family.pad_full else max(map(len, tokens))
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.full((len(tokens), length), padding, dtype=torch.long)
        mask = torch.zeros((len(tokens), length), dtype=torch.long)
        for row, one in enumerate(tokens):
            first = length - len(one) if self._pads_left else 0
            ids[row, first : first + len(one)] = torch.tensor(one)
            mask[row, first : first + len(one)] = 1
        return self._fitting("texts", torch.stack([ids, mask], dim=1), self._texts)

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        values = self._scaled(batch.to(self._device, non_blocking=True)).to(self._dtype)
        if isinstance(self.model, transformers.BlipForImageTextRetrieval):
            return self._tensor(self.model.vision_proj(self.model.vision_model(pixel_values=values).last_hidden_state[:, 0]))
        return self._pooled(self.model.get_image_features(pixel_values=values))

    def _texts(self, batch: torch.Tensor) -> torch.Tensor:
        ids, mask = batch.to(self._device).unbind(dim=1)
        inputs = {"input_ids": ids}
        if not self._family.causal and not self._family.pad_full:
            inputs["attention_mask"] = mask
        if isinstance(self.model, transformers.BlipForImageTextRetrieval):
            return self._tensor(self.model.text_proj(self.model.text_encoder(**inputs).last_hidden_state[:, 0]))
        return self._pooled(self.model.get_text_features(**inputs))

    def _pooled(self, output: Any) -> torch.Tensor:
        vectors = output.pooler_output
        return self._tensor(vectors if vectors.ndim == 2 else vectors[:, 0])  # FLAVA projects every token; the first is meant

    @staticmethod
    def _tensor(vectors: Any) -> torch.Tensor:
        assert isinstance(vectors, torch.Tensor)
        return vectors

    def _fitting(self, kind: str, batch: torch.Tensor, function: Any) -> Floats:
        """The batch's unit vectors, in parts where the device's memory does not hold it; what fitted is remembered."""
        parts, start = [], 0
        while start < len(batch):
            size = min(self._most.get(kind, len(batch)), len(batch) - start)
            try:
                parts.append(unit(function(batch[start : start + size]).float().cpu().numpy()))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self._most[kind] = size // 2
                continue
            start += size
        return np.concatenate(parts)


def load_processor(folder: Path) -> Any:
    """The folder's image processor in the Pillow-based version, whose pixels are those that models were trained with."""
    auto: Any = AutoImageProcessor
    return auto.from_pretrained(folder, local_files_only=True, backend="pil")


def _load(folder: Path, family: Family) -> Any:
    """The model on the CPU. safetensors are preferred; pickled weights are read with `weights_only`, so no code runs."""
    model_class = getattr(transformers, family.model_class)
    loaded: Any = model_class.from_pretrained(
        folder, local_files_only=True, weights_only=True, output_loading_info=True, dtype=torch.float32
    )
    model, report = loaded
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(family.unused))
    if missing:  # transformers would go on with random numbers
        lacking = f"lack {len(missing)} tensors that its config.json asks for, such as {missing[0]}"
        raise ConfigError(f"embed: the weights in {folder} {lacking}")
    return model


def _positions(config: Any) -> int:
    """How many tokens the text model takes."""
    text = config.text_config
    offset = (text.pad_token_id or 0) + 1 if text.model_type in _OFFSET_POSITIONS else 0
    return int(text.max_position_embeddings) - offset


def _align(model: torch.nn.Module) -> None:
    """Moves the weights out of the mapped file: how they lie there would change the last bit of the results."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
