"""Makes the label vectors of `score.zero_shot`: `python -m pairsift.stages.embed.label_vectors --model FOLDER --labels FILE`.

A label's vector is the mean of the unit vectors of its templates, brought to length 1, as CLIP's authors make theirs
(https://arxiv.org/abs/2103.00020, section 3.1).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed
from pairsift.stages.embed.encoder import Encoder, Floats, text_vectors, unit


def label_vectors(encoder: Encoder, labels: Sequence[str], templates: Sequence[str]) -> Floats:
    """(labels, dim) unit vectors. Each template has one `{}`, where the label goes."""
    texts = [template.format(label) for label in labels for template in templates]
    vectors = text_vectors(encoder, texts).reshape(len(labels), len(templates), encoder.dim)
    return unit(vectors.mean(axis=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises ConfigError for a model that cannot be had; OSError for a file."""
    parser = argparse.ArgumentParser(description="Make the label vectors of score.zero_shot.")
    parser.add_argument("--model", required=True, help="as in `embed`: a name on the hub, a folder, or embedded")
    parser.add_argument("--labels", type=Path, required=True, help="text file, one label a line")
    parser.add_argument("--template", action="append", help="default: 'a photo of a {}.'; may be given several times")
    parser.add_argument("--out", type=Path, default=Path("labels.npz"))
    options = parser.parse_args(arguments)

    labels = [line.strip() for line in options.labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    stage = Embed(model=options.model, dtype="float32")
    stage.check()
    encoder = stage.load_encoder()
    vectors = label_vectors(encoder, labels, options.template or ["a photo of a {}."])
    np.savez(options.out, names=np.array(labels), vectors=vectors)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, OSError) as error:
        sys.exit(f"label_vectors: {error}")
