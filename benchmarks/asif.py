"""ASIF beside the heads of `model: embedded`, on the same frozen encoders, over five folds of the same pairs.

    python benchmarks/asif.py DATA        # folder with coco/ and fsa_color/, each with images and captions.tsv

In each fold a fifth of the groups (pairs that share a caption or a scene) is held out; the rest are the anchors, and what the
heads are fitted on. Printed is ROC-AUC of matched against mismatched pairs: mean over the folds, least and largest.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from pairsift.stages.embed import fit_embedded as heads
from pairsift.stages.embed.embedded import FrozenNetworks
from pairsift.stages.embed.encoder import unit
from pairsift.stages.score.asif import relative

FOLDS = 5
SETTINGS = [(k, p) for k in (50, 100, 200, 400, 800) for p in (1.0, 2.0, 4.0, 8.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description="ROC-AUC of ASIF and of fitted heads.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=10_000, help="of each folder, at most")
    options = parser.parse_args()
    networks = FrozenNetworks("cpu")
    datasets = {name: first(heads.load_dataset(options.data / name), options.pairs) for name in heads.DATASETS}
    features = {name: heads.extract(networks, dataset) for name, dataset in datasets.items()}
    class_names = Path(heads.__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    names = networks.sentence_vectors([f"a photo of a {name}" for name in class_names])
    found: dict[tuple[str, str], list[float]] = {}
    for fold in range(FOLDS):
        held_out = {name: fold_of(dataset.groups) == fold for name, dataset in datasets.items()}
        parts = [rows(features[name], ~held_out[name]) for name in datasets]
        training = heads.Features(*(np.concatenate(both) for both in zip(*parts, strict=True)))
        began = time.perf_counter()
        fitted = heads.fit(training, names)
        print(f"fold {fold}: {len(training.pooled)} pairs; heads fitted in {time.perf_counter() - began:.1f} s", flush=True)
        anchors = unit(training.pooled), unit(training.sentences)
        for name, dataset in datasets.items():
            test, groups = rows(features[name], held_out[name]), dataset.groups[held_out[name]]
            other = groups[:, None] != groups[None, :]
            quality = heads.evaluate(fitted, test, groups, resamples=0)
            found.setdefault((name, "heads of `embedded`"), []).append(quality.auc)
            for k, p in SETTINGS:
                images, texts = (
                    relative(unit(v), a, k, p) for v, a in zip((test.pooled, test.sentences), anchors, strict=True)
                )
                similarity = images @ texts.T
                found.setdefault((name, f"asif k={k} p={p:g}"), []).append(
                    heads.roc_auc(similarity.diagonal(), similarity[other])
                )
    for (name, way), values in found.items():
        print(f"{name:10} {way:22} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


def first(dataset: heads.Dataset, count: int) -> heads.Dataset:
    return dataset.only(np.arange(len(dataset.files)) < count)


def fold_of(groups: np.ndarray) -> np.ndarray:
    numbers, places = np.unique(groups, return_inverse=True)
    return np.random.default_rng(0).permutation(len(numbers))[places] % FOLDS


def rows(features: heads.Features, wanted: np.ndarray) -> heads.Features:
    return heads.Features(*(values[wanted] for values in features))


if __name__ == "__main__":
    main()
