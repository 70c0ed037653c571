import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import label_vectors, lean
from pairsift.stages.embed.dual import DualEncoder, load_processor
from pairsift.stages.embed.pixels import decode

TEXTS = ["a photo of a cat", "Rocket", "naïve café — 猫 🚀", "word " * 200, "x", "  a   photo\nof a cat  "]


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> DualEncoder:
    return DualEncoder(clip_folder, device="cpu", dtype="float32")


def reference_images(folder: Path, pictures: list[bytes]) -> np.ndarray:
    """transformers' own pipeline, as its documentation shows it, one image at a time."""
    model, processor = CLIPModel.from_pretrained(folder), load_processor(folder)
    rows = []
    for photo in pictures:
        inputs = processor(Image.open(io.BytesIO(photo)).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            vision = model.vision_model(**inputs)
            rows.append(model.visual_projection(vision.pooler_output)[0].numpy())
    return normalised(np.stack(rows))


def reference_texts(folder: Path, texts: list[str]) -> np.ndarray:
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer([text], padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model.text_projection(model.text_model(**inputs).pooler_output)[0].numpy())
    return normalised(np.stack(rows))


def normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encode_images(encoder: DualEncoder, pictures: list[bytes]) -> np.ndarray:
    return encoder.encode_images(encoder.stack([encoder.prepare(decode(pa.py_buffer(photo))) for photo in pictures]))


def texts_of(encoder: DualEncoder, texts: list[str]) -> np.ndarray:
    return encoder.encode_texts(encoder.tokenize(texts))


def test_images_agree_with_transformers(encoder: DualEncoder, clip_folder: Path, pictures: list[bytes]) -> None:
    ours, theirs = encode_images(encoder, pictures), reference_images(clip_folder, pictures)
    assert ours.shape == (len(pictures), encoder.dim)
    assert ours.dtype == np.float32
    assert ((ours * theirs).sum(axis=1) > 1 - 1e-3).all()
    assert (theirs @ theirs.T)[~np.eye(len(pictures), dtype=bool)].min() < 1 - 1e-2  # the model does tell images apart


def test_texts_agree_with_transformers(encoder: DualEncoder, clip_folder: Path) -> None:
    ours, theirs = texts_of(encoder, TEXTS), reference_texts(clip_folder, TEXTS)
    assert ((ours * theirs).sum(axis=1) > 1 - 1e-5).all()
    assert (ours[0] @ ours[1]) < 1 - 1e-2
    np.testing.assert_allclose(ours[0], ours[5], atol=1e-6)  # white space does not count


def test_a_caption_of_megabytes_is_cut_before_it_is_tokenised(encoder: DualEncoder) -> None:
    start = time.process_time()
    long = texts_of(encoder, ["cat " * 500_000])
    assert time.process_time() - start < 0.5
    np.testing.assert_allclose(long, texts_of(encoder, ["cat " * 100]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_stay_near(encoder: DualEncoder, clip_folder: Path, pictures: list[bytes], dtype: str) -> None:
    short = encode_images(DualEncoder(clip_folder, device="cpu", dtype=dtype), pictures)
    assert ((short * encode_images(encoder, pictures)).sum(axis=1) > 1 - 1e-2).all()


def test_pickled_weights_are_read_without_running_code(clip_folder: Path, tmp_path: Path, encoder: DualEncoder) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    texts = texts_of(DualEncoder(folder, device="cpu", dtype="float32"), ["a cat"])
    np.testing.assert_array_equal(texts, texts_of(encoder, ["a cat"]))


def test_code_hidden_in_pickled_weights_does_not_run(clip_folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (ran,))

    folder = shutil.copytree(clip_folder, tmp_path / "trapped")
    torch.save({"logit_scale": Trap()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        DualEncoder(folder, device="cpu", dtype="float32")
    assert not ran.exists()


def test_weights_that_lack_tensors_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors .* visual_projection.weight"):
        DualEncoder(folder, device="cpu", dtype="float32")


class Narrow(DualEncoder):
    """On a device with room for three images, or texts, at a time."""

    asked: list[int]

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._images(batch)


def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(clip_folder: Path, pictures: list[bytes]) -> None:
    narrow = Narrow(clip_folder, device="cpu", dtype="float32")
    narrow.asked = []
    found = encode_images(narrow, pictures)
    assert narrow.asked == [8, 4, 2, 2, 2, 2]
    np.testing.assert_allclose(found, encode_images(DualEncoder(clip_folder, "cpu", "float32"), pictures), atol=1e-5)
    encode_images(narrow, pictures[:5])
    assert narrow.asked[6:] == [2, 2, 1]


def test_what_does_not_fit_alone_is_an_error(clip_folder: Path, pictures: list[bytes]) -> None:
    class TooNarrow(Narrow):
        def _images(self, batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        encode_images(TooNarrow(clip_folder, device="cpu", dtype="float32"), pictures)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_leaner_kernels_give_the_same_function(
    clip_folder: Path, tmp_path: Path, pictures: list[bytes], activation: str
) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = activation
    (folder / "config.json").write_text(json.dumps(config))
    short, long = (DualEncoder(folder, "cpu", dtype) for dtype in ("bfloat16", "float32"))
    if lean.can_pack():
        assert any(isinstance(module, lean.PackedLinear) for module in short.model.modules())
    assert ((encode_images(short, pictures) * reference_images(folder, pictures)).sum(axis=1) > 0.999).all()
    assert ((texts_of(short, TEXTS) * texts_of(long, TEXTS)).sum(axis=1) > 0.999).all()


def test_vectors_of_labels_are_means_over_templates(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\nrocket\n")
    templates = ["--template", "a photo of a {}", "--template", "{}"]
    label_vectors.main(
        ["--model", str(clip_folder), "--labels", str(tmp_path / "labels.txt"), *templates, "--out", str(tmp_path / "l.npz")]
    )
    made = np.load(tmp_path / "l.npz")
    assert made["names"].tolist() == ["cat", "rocket"]
    single = texts_of(DualEncoder(clip_folder, "cpu", "float32"), ["a photo of a cat", "cat"])
    np.testing.assert_allclose(made["vectors"][0], normalised(single.mean(axis=0, keepdims=True))[0], atol=1e-5)
