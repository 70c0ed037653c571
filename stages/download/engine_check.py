"""What `engine: img2dataset` needs, and what it cannot do: said before anything runs, and without importing it."""

import importlib.util
from typing import Any

from pairsift.stages.base import ConfigError, Stage
from pairsift.stages.pixels.options import ImageOptions

_NEEDS = ("img2dataset", "albumentations", "imghdr")  # imghdr left the standard library with Python 3.13
# What it does whatever it is told: a config must say so, or it would promise what is not kept.
_MUST_SAY = {
    "allow_private_addresses": True,  # it connects to any address, and follows redirects there
    "robots": False,
    "tdm_reservation": False,
    "content_usage": False,
    "orientation": "ignore",
}
# Not honoured either: `contact` (its User-Agent is a browser's) and the default of `per_host`.
_HAS = (
    set(ImageOptions.model_fields) - {"max_pixels"}
    | {"use", "as_", "resources", "engine", "timeout", "retries", "connections", "user_agent_token", "contact"}
    | {"disallowed_header_directives", "extract_exif", "compute_hash", "verify_hash", "bbox_col", *_MUST_SAY}
)


def check_img2dataset(stage: Stage) -> None:
    """Raises ConfigError where the package is missing, or where a parameter is set that img2dataset has no counterpart of."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"engine: img2dataset needs {', '.join(missing)}: pip install 'pairsift[img2dataset]'")
    unsaid = [name for name, value in _MUST_SAY.items() if getattr(stage, name) != value]
    if unsaid:
        lines = ", ".join(f"{name}: {str(_MUST_SAY[name]).lower()}" for name in unsaid)
        raise ConfigError(f"engine: img2dataset checks no addresses and asks for no consent but X-Robots-Tag; say so: {lines}")
    for name, field in type(stage).model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        if name not in _HAS and getattr(stage, name) != default:
            raise ConfigError(f"engine: img2dataset has no {name}: leave it out, or take engine: pairsift")
