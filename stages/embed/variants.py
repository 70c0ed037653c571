"""Encoders that need more than transformers' two calls: patches of any shape, frames, towers without their bridge, images
alone."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pairsift.stages.embed import pixels
from pairsift.stages.embed.dual import DualEncoder
from pairsift.stages.embed.encoder import Prepared
from pairsift.stages.embed.families import IMAGE_FAMILIES

_MOST_FRAMES = 512  # of an animation; what comes later is not looked at
_MOST_PIXELS = 1 << 28  # of all the frames that are decoded: some seconds of work


def encoder_of(folder: Path, device: str, dtype: str) -> DualEncoder:
    """The checkpoint, loaded by the class that its family needs. Raises ConfigError as `DualEncoder` does."""
    family = json.loads((folder / "config.json").read_bytes())["model_type"]
    if family in IMAGE_FAMILIES:
        return ImageEncoder(folder, device, dtype)
    kinds = {"siglip2": PatchEncoder, "xclip": FrameEncoder, "bridgetower": BridgeEncoder}
    return kinds.get(family, DualEncoder)(folder, device, dtype)


class PatchEncoder(DualEncoder):
    """SigLIP 2 NaFlex (https://arxiv.org/abs/2502.14786): an image keeps its shape, as a run of patches of its own length.

    What `prepare` gives is (patches, values + 3) in float32: a patch's values, whether it is one, and in the last two columns
    of the first row how many patches high and wide the image is.
    """

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        found = self._processor(image, return_tensors="np", input_data_format="channels_last")
        values, mask, shape = (found[name][0] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes"))
        prepared = np.zeros((values.shape[0], values.shape[1] + 3), np.float32)
        prepared[:, :-3], prepared[:, -3], prepared[0, -2:] = values, mask, shape
        return prepared

    def stack(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        return torch.from_numpy(np.stack(prepared)).clone()  # in memory of torch's own, as sums depend on its alignment

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        values = batch.to(self._device, non_blocking=True)
        return self._pooled(
            self.model.get_image_features(
                pixel_values=values[..., :-3].to(self._dtype),
                pixel_attention_mask=values[..., -3].to(torch.int64),
                spatial_shapes=values[:, 0, -2:].to(torch.int64),
            )
        )


class FrameEncoder(DualEncoder):
    """X-CLIP (https://arxiv.org/abs/2208.02816): as many frames of an animated image as the model was trained with.

    They are spread evenly; a still image is all frames. The text's vector is the one before X-CLIP's prompts, which depend on
    the video it is compared with.
    """

    @property
    def _frames(self) -> int:
        return int(self.model.config.vision_config.num_frames)

    def decode(self, encoded: pa.Buffer | None) -> NDArray[np.uint8] | None:
        """(frames, height, width, 3)."""
        first = pixels.decode(encoded)
        if first is None or encoded is None:
            return None
        frames = [*_frames_of(encoded)] or [first]
        chosen = [frames[(2 * place + 1) * len(frames) // (2 * self._frames)] for place in range(self._frames)]
        return np.stack(chosen)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        return np.stack([super(FrameEncoder, self).prepare(frame) for frame in image])

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        values = self._scaled(batch.to(self._device, non_blocking=True)).to(self._dtype)
        return self._pooled(self.model.get_video_features(pixel_values=values))


class BridgeEncoder(DualEncoder):
    """BridgeTower (https://arxiv.org/abs/2206.08657): the two towers and the heads of its contrastive loss.

    Its layers in which image and text meet give a third vector, of the pair. These two do not depend on them: they come out of
    the towers alone, so they are worked out one side at a time here, and the layers of the pair never run.
    """

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        tower, visual = self.model.bridgetower, self.model.bridgetower.vision_model.visual
        values = visual.forward_pre(self._scaled(batch.to(self._device, non_blocking=True)).to(self._dtype))
        for block in visual.transformer.resblocks:
            values = block(values)
        kind = tower.token_type_embeddings(torch.ones(1, dtype=torch.long, device=self._device))
        first = tower.cross_modal_image_transform(visual.forward_post(values)[:, 0]) + kind
        return self._tensor(self.model.itc_image_head(first))

    def _texts(self, batch: torch.Tensor) -> torch.Tensor:
        ids, mask = batch.to(self._device).unbind(dim=1)
        text = self.model.bridgetower.text_model
        values = text.embeddings(input_ids=ids)
        hidden = (1 - mask[:, None, None, :]).to(self._dtype) * torch.finfo(self._dtype).min
        for layer in text.encoder.layer:
            values = layer(values, hidden)
        return self._tensor(self.model.itc_text_head(values[:, 0]))


class ImageEncoder(DualEncoder):
    """An encoder of images alone, such as DINOv2 (https://arxiv.org/abs/2304.07193): the last layer's first token, after its
    normalisation. It has no tokenizer, and is never given texts: `embed` takes it with `only: images`."""

    def _load_tokenizer(self, folder: Path) -> None:
        del folder

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        values = self._scaled(batch.to(self._device, non_blocking=True)).to(self._dtype)
        return self._tensor(self.model(pixel_values=values).last_hidden_state[:, 0])


def _frames_of(encoded: pa.Buffer) -> Iterator[NDArray[np.uint8]]:
    """The frames of an animation, whole and in order, until one is damaged or there are too many; none of a still image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            count = int(getattr(image, "n_frames", 1))
            most = min(_MOST_FRAMES, _MOST_PIXELS // max(1, image.width * image.height))
            for place in range(min(count, most) if count > 1 else 0):
                image.seek(place)
                yield np.asarray(image.convert("RGB"))
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError):
        return  # what was decoded before it will do; OpenCV has read the first
