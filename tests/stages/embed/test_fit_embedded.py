from pathlib import Path

import numpy as np
import pytest

from pairsift.stages.embed import embedded
from pairsift.stages.embed.embedded import FrozenNetworks, load_heads
from pairsift.stages.embed.fit_embedded import Features, evaluate, extract, fit, load_dataset, roc_auc, save

for package in embedded._PACKAGES:
    pytest.importorskip(package)


@pytest.mark.parametrize("name, target", [("coco", 0.95), ("fsa_color", 0.88)])
def test_shipped_heads_tell_matched_from_mismatched_pairs(test_data: Path, name: str, target: float) -> None:
    dataset = load_dataset(test_data / name)
    assert 0.15 < dataset.held_out.mean() < 0.25
    held_out = dataset.only(dataset.held_out)
    quality = evaluate(load_heads(), extract(FrozenNetworks("cpu"), held_out), held_out.groups, resamples=0)
    assert quality.auc > target, quality.auc


@pytest.mark.parametrize("name", ["coco", "fsa_color"])
def test_no_caption_and_no_group_is_on_both_sides(test_data: Path, name: str) -> None:
    dataset = load_dataset(test_data / name)
    inside, outside = dataset.only(dataset.held_out), dataset.only(~dataset.held_out)
    assert not set(inside.captions) & set(outside.captions)
    assert not set(inside.groups) & set(outside.groups)


def test_auc_counts_ties_half() -> None:
    assert roc_auc(np.float32([2, 3]), np.float32([0, 1])) == 1
    assert roc_auc(np.float32([0, 1]), np.float32([0, 1])) == 0.5
    assert roc_auc(np.float32([0.5]), np.float32([0, 1, 2])) == pytest.approx(1 / 3)


def test_heads_are_the_same_bytes_every_time_and_join_what_belongs_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(400, 8))
    pooled = np.abs(hidden @ generator.normal(size=(8, 1280))).astype(np.float32)
    sentences = (hidden @ generator.normal(size=(8, 384))).astype(np.float32)
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    features = Features(pooled, np.zeros((400, 1000), dtype=np.float32), sentences)
    names = np.zeros((1000, 384), dtype=np.float32)  # names that say nothing: the fitted part alone
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        save(fit(features, names), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    heads, groups = load_heads(files[0]), np.arange(400)
    assert evaluate(heads, features, groups, resamples=0).auc > 0.75
    assert evaluate(heads, features._replace(sentences=sentences[::-1]), groups, resamples=0).auc < 0.6
