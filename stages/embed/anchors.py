"""Makes the anchors of `score.asif`: `python -m pairsift.stages.embed.anchors --images MODEL --texts MODEL --pairs FILE`.

The models must be those of the run, as it compares rows with the anchors by their vectors.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed
from pairsift.stages.embed.encoder import BATCH, Encoder, Floats, text_vectors


def image_vectors(encoder: Encoder, files: Sequence[Path]) -> tuple[Floats, list[int]]:
    """(n, dim) unit vectors, and the places in `files` of the n that are images."""
    parts, places = [np.zeros((0, encoder.dim), np.float32)], []
    for start in range(0, len(files), BATCH):
        decoded = [encoder.decode(pa.py_buffer(file.read_bytes())) for file in files[start : start + BATCH]]
        images = [encoder.prepare(image) for image in decoded if image is not None]
        places += [start + place for place, image in enumerate(decoded) if image is not None]
        if images:
            parts.append(encoder.encode_images(encoder.stack(images)))
    return np.concatenate(parts), places


def read_pairs(file: Path) -> tuple[list[Path], list[str]]:
    """Files, which the list names relative to its own folder, and captions; those without a caption are left out.

    Raises ConfigError where the list is no such list.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"file", "caption"} <= set(reader.fieldnames or ()):
            raise ConfigError(f"{file}: its first line has to name the columns file and caption, with a tab between them")
        lines = [line for line in reader if (line["caption"] or "").strip()]
    return [file.parent / line["file"] for line in lines], [line["caption"] for line in lines]


def _encoder(stage: Embed) -> Encoder:
    stage.check()
    return stage.load_encoder()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises ConfigError for a model that cannot be had, and for a list that is none; OSError for a file."""
    parser = argparse.ArgumentParser(description="Make the anchors of score.asif.")
    parser.add_argument("--images", required=True, help="as `model` of an `embed` with `only: images`")
    parser.add_argument("--texts", required=True, help="as `text_model` of an `embed` with `model: null`, `only: texts`")
    parser.add_argument("--pairs", type=Path, required=True, help="a header `file`, `caption`, then file TAB caption")
    parser.add_argument("--out", type=Path, default=Path("anchors.npz"))
    options = parser.parse_args(arguments)

    files, captions = read_pairs(options.pairs)
    images, places = image_vectors(_encoder(Embed(model=options.images, only="images", dtype="float32")), files)
    towers = Embed(model=None, text_model=options.texts, only="texts", dtype="float32")
    texts = text_vectors(_encoder(towers), [captions[place] for place in places])
    np.savez(options.out, images=images, texts=texts)
    sys.stdout.write(f"{len(images)} anchors; {len(files) - len(images)} files are no images\n")


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, OSError) as error:
        sys.exit(f"anchors: {error}")
