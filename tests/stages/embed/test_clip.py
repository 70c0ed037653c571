import io
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import _decode
from pairsift.stages.embed.clip import ClipEncoder, load_processor

TEXTS = ["a photo of a cat", "Rocket", "naïve café — 猫 🚀", "word " * 200, "x", "  a   photo\nof a cat  "]


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> ClipEncoder:
    return ClipEncoder(clip_folder, device="cpu", dtype="float32")


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


def encode_images(encoder: ClipEncoder, pictures: list[bytes]) -> np.ndarray:
    import pyarrow as pa

    return encoder.encode_images([encoder.prepare(_decode(pa.py_buffer(photo))) for photo in pictures])


def test_images_agree_with_transformers(encoder: ClipEncoder, clip_folder: Path, pictures: list[bytes]) -> None:
    ours, theirs = encode_images(encoder, pictures), reference_images(clip_folder, pictures)
    assert ours.shape == (len(pictures), encoder.dim)
    assert ours.dtype == np.float32
    assert ((ours * theirs).sum(axis=1) > 1 - 1e-3).all()
    assert (theirs @ theirs.T)[~np.eye(len(pictures), dtype=bool)].min() < 1 - 1e-2  # the model does tell images apart


def test_texts_agree_with_transformers(encoder: ClipEncoder, clip_folder: Path) -> None:
    ours, theirs = encoder.encode_texts(TEXTS), reference_texts(clip_folder, TEXTS)
    assert ((ours * theirs).sum(axis=1) > 1 - 1e-5).all()
    assert (ours[0] @ ours[1]) < 1 - 1e-2
    np.testing.assert_allclose(ours[0], ours[5], atol=1e-6)  # white space does not count


def test_a_caption_of_megabytes_is_cut_before_it_is_tokenised(encoder: ClipEncoder) -> None:
    start = time.perf_counter()
    long = encoder.encode_texts(["cat " * 500_000])
    assert time.perf_counter() - start < 0.5
    np.testing.assert_allclose(long, encoder.encode_texts(["cat " * 100]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_stay_near(encoder: ClipEncoder, clip_folder: Path, pictures: list[bytes], dtype: str) -> None:
    short = encode_images(ClipEncoder(clip_folder, device="cpu", dtype=dtype), pictures)
    assert ((short * encode_images(encoder, pictures)).sum(axis=1) > 1 - 1e-2).all()


def test_pickled_weights_are_read_without_running_code(clip_folder: Path, tmp_path: Path, encoder: ClipEncoder) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    texts = ClipEncoder(folder, device="cpu", dtype="float32").encode_texts(["a cat"])
    np.testing.assert_array_equal(texts, encoder.encode_texts(["a cat"]))


def test_code_hidden_in_pickled_weights_does_not_run(clip_folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (ran,))

    folder = shutil.copytree(clip_folder, tmp_path / "trapped")
    torch.save({"logit_scale": Trap()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        ClipEncoder(folder, device="cpu", dtype="float32")
    assert not ran.exists()


def test_weights_that_lack_tensors_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors .* visual_projection.weight"):
        ClipEncoder(folder, device="cpu", dtype="float32")
