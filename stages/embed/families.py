"""The families of dual encoders that `embed` knows, by their configuration's `model_type`. Never imports torch.

A new family is one entry here, where transformers' class has `get_image_features` and `get_text_features`; else, a few lines
in dual.py besides.
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


def family(config: Mapping[str, Any]) -> Family | None:
    """The family of a checkpoint's config.json; None for one that is not known."""
    return FAMILIES.get(str(config.get("model_type")))


def dimension(config: Mapping[str, Any]) -> int:
    """Length of the vectors of a checkpoint of a known family."""
    found = FAMILIES[config["model_type"]]
    value: Any = config
    for name in found.dim:
        value = value.get(name) if isinstance(value, Mapping) else None
    return found.default_dim if value is None else int(value)
