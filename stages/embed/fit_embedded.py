"""Fits the heads of `model: embedded`: `python -m pairsift.stages.embed.fit_embedded --data DIR [--out FILE]`.

DIR holds `coco/` and `fsa_color/`, each with images and a `captions.tsv` (header, then file TAB caption). One set of heads
is fitted on four fifths of both; what is printed is measured on the remaining fifth, so it is true of the file written.

The fitted part is canonical correlation analysis (Hotelling 1936) with ridge regularisation, in closed form. The part from
class names follows ConSE (Norouzi et al. 2013, https://arxiv.org/abs/1312.5650): a picture is the mean of the names of its
ImageNet classes, weighted by their probability. It needs no pairs at all, and so is not bound to theirs.
"""

import argparse
import csv
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pairsift.stages.embed.embedded import HEADS_FILE, FrozenNetworks, Heads
from pairsift.stages.embed.encoder import Floats, unit

DATASETS = ("coco", "fsa_color")
FITTED_DIMS = 128
NAMED_DIMS = 192  # with these, the file stays under 1 MB
IMAGE_RIDGE, TEXT_RIDGE = 3.0, 1.0  # in units of the mean variance per dimension
_CLASS_NAMES = Path(__file__).with_name("imagenet_classes.txt")  # line i: the first lemma of class i's WordNet synset
_SAME_LOOK = 0.93  # correlation of two 16 by 16 grey thumbnails above which they show one scene
_SAME_START = 40  # characters: the FSA's catalogue tells photos of one scene apart in the rest, if at all
_BATCH = 32

Doubles = NDArray[np.float64]


class Dataset(NamedTuple):
    """Pairs in the order of their file names. Pairs of one group share a caption or a scene and stay on one side."""

    files: list[Path]
    captions: list[str]
    groups: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    def only(self, rows: NDArray[np.bool_]) -> "Dataset":
        kept = np.flatnonzero(rows)
        return Dataset(
            [self.files[row] for row in kept], [self.captions[row] for row in kept], self.groups[rows], self.held_out[rows]
        )


class Features(NamedTuple):
    """What the frozen networks give for n pairs."""

    pooled: Floats  # (n, 1280)
    logits: Floats  # (n, 1000)
    sentences: Floats  # (n, 384)


class Quality(NamedTuple):
    """What similarities are worth on one set of pairs."""

    auc: float
    low: float  # 95 % bootstrap interval
    high: float
    matched: NDArray[np.float32]
    mismatched: NDArray[np.float32]


def load_dataset(folder: Path) -> Dataset:
    """The pairs, their groups, and a fifth held out by a hash of each group's first caption."""
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as stream:
        lines = sorted(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), key=lambda line: line["file"])
    files = [folder / line["file"] for line in lines]
    captions = [line["caption"] for line in lines]
    groups = _group(captions, np.stack([_thumbnail(file) for file in files]))
    first = {int(group): min(captions[row] for row in np.flatnonzero(groups == group)) for group in np.unique(groups)}
    held_out = np.array([_hash("held out:" + first[int(group)]) % 5 == 0 for group in groups])
    return Dataset(files, captions, groups, held_out)


def extract(networks: FrozenNetworks, dataset: Dataset) -> Features:
    """Runs the frozen networks over all pairs, in order."""
    pooled, logits, sentences = [], [], []
    for start in range(0, len(dataset.files), _BATCH):
        images = [networks.prepare(read_rgb(file)) for file in dataset.files[start : start + _BATCH]]
        features, classes = networks.image_features(images)
        pooled.append(features)
        logits.append(classes)
        sentences.append(networks.sentence_vectors(dataset.captions[start : start + _BATCH]))
    return Features(np.concatenate(pooled), np.concatenate(logits), np.concatenate(sentences))


def read_rgb(file: Path) -> NDArray[np.uint8]:
    """(height, width, 3). Raises ValueError for what is not an image."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{file} is not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def fit(features: Features, names: Floats) -> Heads:
    """Heads from pairs, and from the (1000, 384) sentence vectors of the class names. Rounded to float16, as they are kept."""
    images, texts = unit(features.pooled).astype(np.float64), features.sentences.astype(np.float64)
    image_map, text_map = _canonical_maps(images, texts)
    axes = _principal_axes(names, texts)
    heads = (
        image_map,
        -images.mean(axis=0) @ image_map,
        text_map,
        -texts.mean(axis=0) @ text_map,
        (names - names.mean(axis=0)) @ axes,
        axes,
        -texts.mean(axis=0) @ axes,
    )
    return Heads(*(values.astype(np.float16).astype(np.float32) for values in heads))


def evaluate(heads: Heads, features: Features, groups: NDArray[np.int64], resamples: int = 1000) -> Quality:
    """Each pair against itself (matched) and against all pairs of other groups (mismatched)."""
    similarity = heads.embed_images(features.pooled, features.logits) @ heads.embed_texts(features.sentences).T
    other = groups[:, None] != groups[None, :]
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(resamples):
        rows = generator.integers(len(groups), size=len(groups))
        drawn, apart = similarity[np.ix_(rows, rows)], other[np.ix_(rows, rows)]
        samples.append(roc_auc(drawn.diagonal(), drawn[apart]))
    low, high = np.percentile(samples, [2.5, 97.5]) if samples else (np.nan, np.nan)
    matched, mismatched = similarity.diagonal(), similarity[other]
    return Quality(roc_auc(matched, mismatched), float(low), float(high), matched, mismatched)


def roc_auc(positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> float:
    """The chance that a positive is above a negative; a tie counts half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left") + np.searchsorted(ordered, positives, side="right")
    return float(below.mean() / (2 * len(ordered)))


def save(heads: Heads, file: Path) -> None:
    """Writes safetensors in float16; the same heads give the same bytes."""
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(values, dtype=np.float16) for name, values in heads._asdict().items()}
    file.write_bytes(to_bytes(tensors))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the heads of `model: embedded`.")
    parser.add_argument("--data", type=Path, required=True, help="folder with coco/ and fsa_color/")
    parser.add_argument("--out", type=Path, default=HEADS_FILE, help="safetensors file to write (default: the shipped one)")
    options = parser.parse_args(arguments)

    networks = FrozenNetworks("cpu")
    datasets = {name: load_dataset(options.data / name) for name in DATASETS}
    features = {name: extract(networks, dataset) for name, dataset in datasets.items()}
    fitted_on = [_rows(features[name], ~datasets[name].held_out) for name in DATASETS]
    class_names = _CLASS_NAMES.read_text(encoding="utf-8").splitlines()
    heads = fit(
        Features(*(np.concatenate(parts) for parts in zip(*fitted_on, strict=True))),
        networks.sentence_vectors([f"a photo of a {name}" for name in class_names]),
    )
    save(heads, options.out)
    _say(f"wrote {options.out} ({options.out.stat().st_size} bytes), fitted on {sum(len(f.pooled) for f in fitted_on)} pairs")
    for name, dataset in datasets.items():
        held_out = dataset.held_out
        _print_quality(name, evaluate(heads, _rows(features[name], held_out), dataset.groups[held_out]))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print_quality(name: str, quality: Quality) -> None:
    matched, mismatched = quality.matched, quality.mismatched
    _say(f"{name}: {len(matched)} held-out pairs, ROC-AUC {quality.auc:.3f} (95 % {quality.low:.3f} to {quality.high:.3f})")
    _say(f"  matched: mean {matched.mean():.3f}; mismatched: mean {mismatched.mean():.3f}, {len(mismatched)} pairs")
    for kept in (0.95, 0.9, 0.8, 0.5):
        threshold = float(np.quantile(matched, 1 - kept))
        _say(f"  threshold {threshold:.3f} keeps {kept:.0%} of matched, {(mismatched >= threshold).mean():.1%} of mismatched")


def _rows(features: Features, rows: NDArray[np.bool_]) -> Features:
    return Features(*(values[rows] for values in features))


def _canonical_maps(images: Doubles, texts: Doubles) -> tuple[Doubles, Doubles]:
    """Maps to the `FITTED_DIMS` most correlated directions, each scaled by its correlation so that sure ones weigh more."""
    images, texts = images - images.mean(axis=0), texts - texts.mean(axis=0)
    whiten_images, whiten_texts = _whitener(images, IMAGE_RIDGE), _whitener(texts, TEXT_RIDGE)
    left, correlation, right = np.linalg.svd(whiten_images @ (images.T @ texts / len(images)) @ whiten_texts)
    scale = correlation[:FITTED_DIMS]
    return whiten_images @ left[:, :FITTED_DIMS] * scale, whiten_texts @ right[:FITTED_DIMS].T * scale


def _whitener(centred: Doubles, ridge: float) -> Doubles:
    """Inverse square root of the covariance, to whose diagonal `ridge` times its mean is added."""
    covariance = centred.T @ centred / len(centred)
    variances, axes = np.linalg.eigh(covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    return np.asarray(axes / np.sqrt(variances) @ axes.T)


def _principal_axes(names: Floats, texts: Doubles) -> Doubles:
    """(384, NAMED_DIMS): the directions in which class names and captions differ most among themselves."""
    _, axes = np.linalg.eigh(np.cov(names.T.astype(np.float64)) + np.cov(texts.T))
    return np.asarray(axes[:, -NAMED_DIMS:])


def _thumbnail(file: Path) -> Floats:
    """256 grey values, centred, of length 1."""
    grey = cv2.cvtColor(read_rgb(file), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    return np.asarray(unit((small - small.mean())[None, :])[0])


def _group(captions: list[str], thumbnails: Floats) -> NDArray[np.int64]:
    """A label per pair: connected components of "captions start alike" and "pictures look alike"."""
    label = list(range(len(captions)))

    def find(row: int) -> int:
        while label[row] != row:
            label[row] = label[label[row]]
            row = label[row]
        return row

    first_of: dict[str, int] = {}
    for row, caption in enumerate(captions):
        start = re.sub(r"\W+", " ", caption.lower()).strip()[:_SAME_START]
        label[find(row)] = find(first_of.setdefault(start, row))
    for one, other in np.argwhere(np.triu(thumbnails @ thumbnails.T, k=1) > _SAME_LOOK):
        label[find(int(one))] = find(int(other))
    return np.array([find(row) for row in range(len(captions))], dtype=np.int64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


if __name__ == "__main__":
    main()
