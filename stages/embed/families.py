"""The families of encoders that `embed` knows, by their configuration's `model_type`. Never imports torch.

A new family of dual encoders is one entry here, where transformers' class has `get_image_features` and `get_text_features`;
else, a few lines in dual.py besides. A new family of image encoders is one entry, where its vector is the first token's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """What differs between families, as far as transformers does not know it by itself."""

    model_class: str  # in transformers
    dim: tuple[str, ...]  # where the configuration says how long the vectors are
    default_dim: int  # what transformers takes where it does not say
    pad_full: bool = False  # texts padded to the model's length, without a mask: trained so
    causal: bool = False  # a token sees those before it only, so padding needs no mask
    unused: tuple[str, ...] = ()  # beginnings of the names of weights that `embed` never uses: a checkpoint may lack them


_PROJECTION = ("projection_dim",)
FAMILIES: Mapping[str, Family] = {
    "clip": Family("CLIPModel", _PROJECTION, 512, causal=True),
    "siglip": Family("SiglipModel", ("vision_config", "hidden_size"), 768, pad_full=True),
    "siglip2": Family("Siglip2Model", ("vision_config", "hidden_size"), 768, pad_full=True),
    "metaclip_2": Family("MetaClip2Model", _PROJECTION, 512, causal=True),
    "align": Family("AlignModel", _PROJECTION, 640),
    "altclip": Family("AltCLIPModel", _PROJECTION, 768),
    "chinese_clip": Family("ChineseCLIPModel", _PROJECTION, 512),
    "flava": Family("FlavaModel", _PROJECTION, 768),
    "groupvit": Family("GroupViTModel", _PROJECTION, 256, causal=True),
    "clipseg": Family("CLIPSegModel", _PROJECTION, 512, causal=True),
    "blip": Family("BlipForImageTextRetrieval", ("image_text_hidden_size",), 256),
    "bridgetower": Family("BridgeTowerForContrastiveLearning", ("contrastive_hidden_size",), 512),
    "xclip": Family("XCLIPModel", _PROJECTION, 512, causal=True),
    "vision-text-dual-encoder": Family("VisionTextDualEncoderModel", _PROJECTION, 512),
}

# Encoders of images alone: no text has a vector in their space.
_WIDTH = ("hidden_size",)
_POOLER = ("pooler.",)  # the vector is the first token's, from before it
IMAGE_FAMILIES: Mapping[str, Family] = {
    "vit": Family("ViTModel", _WIDTH, 768, unused=_POOLER),
    "deit": Family("DeiTModel", _WIDTH, 768, unused=_POOLER),
    "dinov2": Family("Dinov2Model", _WIDTH, 768),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _WIDTH, 768),
}


def family(config: Mapping[str, Any]) -> Family | None:
    """The family of a checkpoint's config.json; None for one that is not known."""
    name = str(config.get("model_type"))
    return FAMILIES.get(name) or IMAGE_FAMILIES.get(name)


def dimension(config: Mapping[str, Any]) -> int:
    """Length of the vectors of a checkpoint of a known family."""
    found = family(config)
    assert found is not None
    value: Any = config
    for name in found.dim:
        value = value.get(name) if isinstance(value, Mapping) else None
    return found.default_dim if value is None else int(value)
