"""BLIP with its matching head, as transformers has it. torch is imported by who makes one, never on import."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsift.stages.base import ConfigError
from pairsift.stages.pixels.rgb import decode_rgb

Pixels = NDArray[np.float32]  # (3, height, width), as the model takes them
_MATCHES = 1  # of the head's two numbers, that for a pair that fits


class Blip:
    """The model of a folder. Raises ConfigError where its weights lack what its config asks for."""

    def __init__(self, folder: Path, max_tokens: int, dtype: str, *, cuda: bool, threads: int) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

        # safetensors are preferred; pickled weights are read with `weights_only`, so no code runs.
        loader: Any = BlipForImageTextRetrieval
        network, report = loader.from_pretrained(
            folder, local_files_only=True, weights_only=True, output_loading_info=True, dtype=getattr(torch, dtype)
        )
        if report["missing_keys"]:  # transformers would go on with random numbers
            lacking = sorted(report["missing_keys"])
            raise ConfigError(f"score.matching: the weights in {folder} lack {len(lacking)} tensors, such as {lacking[0]}")
        processors: Any = AutoImageProcessor
        self._processor = processors.from_pretrained(folder, local_files_only=True, backend="pil")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._torch = torch
        self._device = "cuda" if cuda else "cpu"
        self._network = network.eval().to(self._device)
        self._max_tokens = min(max_tokens, network.config.text_config.max_position_embeddings)
        if not cuda:
            torch.set_num_threads(threads)

    def read(self, encoded: bytes) -> Pixels | None:
        """None for what is not an image: see `decode_rgb`."""
        rgb = decode_rgb(encoded)
        if rgb is None:
            return None
        # The layout is said, never guessed: an image 3 pixels high would be taken for channels.
        prepared = self._processor(rgb, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        return np.asarray(prepared[0], dtype=np.float32)

    def match(self, images: Sequence[Pixels], places: Sequence[int], captions: Sequence[str]) -> NDArray[np.float32]:
        """(captions,) probabilities that each fits the image at its place; NaN where the model gives no number."""
        torch = self._torch
        words = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            patches = self._network.vision_model(
                torch.from_numpy(np.stack(images)).to(self._device, self._network.dtype)
            ).last_hidden_state
            patches = patches[torch.tensor(places, device=self._device)]
            read = self._network.text_encoder(
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
                encoder_hidden_states=patches,
                encoder_attention_mask=torch.ones(patches.shape[:-1], dtype=torch.long, device=self._device),
            ).last_hidden_state
            scores = self._network.itm_head(read[:, 0]).float().softmax(dim=1)[:, _MATCHES]
        return np.asarray(scores.cpu().numpy(), dtype=np.float32)
