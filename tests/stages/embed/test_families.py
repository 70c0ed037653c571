"""Each family on a tiny checkpoint with random weights, against transformers' own model, processor and padding."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pairsift.stages.embed import checkpoint, pixels
from pairsift.stages.embed.families import FAMILIES, IMAGE_FAMILIES
from pairsift.stages.embed.variants import encoder_of

LENGTH = 16
CAPTIONS = ["a photo of a cat", "rocket", "two cats and a rocket on a photo " * 4, "photo photo"]
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**LAYERS, "max_position_embeddings": LENGTH}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}
SIZE = {"height": 32, "width": 32}


def causal_text(folder: Path, size: int) -> dict[str, Any]:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}))
    return {**TEXT, "vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}


def word_text(folder: Path, pad: int) -> dict[str, Any]:
    """Words between [CLS] and [SEP]; `pad` is the number of the padding token."""
    words = ["[UNK]", "[CLS]", "[SEP]", *sorted({word for caption in CAPTIONS for word in caption.split()})]
    words.insert(pad, "[PAD]")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [(word, words.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=LENGTH,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return {**TEXT, "vocab_size": len(words), "pad_token_id": pad}


def letter_text(folder: Path) -> dict[str, Any]:
    """SigLIP 2's own tokenizer, which pads on the left, with a vocabulary of letters."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = hf.Siglip2Tokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return {**TEXT, "vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def clip(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return hf.CLIPModel(config), hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)


def metaclip_2(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=24)
    return hf.MetaClip2Model(config), hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)


def siglip(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.SiglipConfig(text_config=text, vision_config=VISION)
    return hf.SiglipModel(config), hf.SiglipImageProcessorPil(size=SIZE)


def siglip2(text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {**LAYERS, "patch_size": 8, "num_patches": 16}
    config = hf.Siglip2Config(text_config=text, vision_config=vision)
    return hf.Siglip2Model(config), hf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=24)


def xclip(text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {**VISION, "num_frames": 4, "mit_hidden_size": 32, "mit_intermediate_size": 64, "mit_num_attention_heads": 2}
    config = hf.XCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    return hf.XCLIPModel(config), hf.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)


def bridgetower(text: dict[str, Any]) -> tuple[Any, Any]:
    text = {**text, "hidden_size": 64, "max_position_embeddings": LENGTH + 2, "type_vocab_size": 1}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    config = hf.BridgeTowerConfig(
        text_config=text, vision_config=vision, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, contrastive_hidden_size=24, logit_scale_init_value=2.6592,
    )  # fmt: skip
    return hf.BridgeTowerForContrastiveLearning(config), hf.BridgeTowerImageProcessorPil(
        size={"shortest_edge": 32}, size_divisor=8, crop_size={"shortest_edge": 32}
    )


def align(text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {
        "image_size": 64, "in_channels": [32, 16], "out_channels": [16, 32], "kernel_sizes": [3, 3], "strides": [1, 2],
        "num_block_repeats": [1, 1], "expand_ratios": [1, 2], "depthwise_padding": [], "hidden_dim": 32,
        "width_coefficient": 1.0, "depth_coefficient": 1.0,
    }  # fmt: skip
    config = hf.AlignConfig(text_config=text, vision_config=vision, projection_dim=32)
    # as its checkpoints have it: pixels from -1 to 1, not normalised further
    settings = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False}
    square = {"height": 64, "width": 64}
    return hf.AlignModel(config), hf.EfficientNetImageProcessorPil(
        size=square, crop_size=square, do_center_crop=True, resample=2, **settings
    )


def altclip(text: dict[str, Any]) -> tuple[Any, Any]:
    text = {**text, "project_dim": 24, "type_vocab_size": 1, "max_position_embeddings": LENGTH + 2}
    config = hf.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return hf.AltCLIPModel(config), hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)


def chinese_clip(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return hf.ChineseCLIPModel(config), hf.ChineseCLIPImageProcessorPil(size=SIZE, do_center_crop=False)


def flava(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.FlavaConfig(text_config=text, image_config=VISION, multimodal_config=LAYERS, hidden_size=32, projection_dim=24)
    return hf.FlavaModel(config), hf.FlavaImageProcessorPil(size=SIZE, crop_size=SIZE)


def groupvit(text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {**VISION, "depths": [1, 1], "num_group_tokens": [4, 2], "num_output_groups": [4, 2], "num_hidden_layers": 2}
    config = hf.GroupViTConfig(text_config=text, vision_config=vision, projection_dim=24, projection_intermediate_dim=32)
    return hf.GroupViTModel(config), hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)


def clipseg(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.CLIPSegConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return hf.CLIPSegModel(config), hf.ViTImageProcessorPil(size=SIZE)


def blip(text: dict[str, Any]) -> tuple[Any, Any]:
    config = hf.BlipConfig(text_config={**text, "encoder_hidden_size": 32}, vision_config=VISION, image_text_hidden_size=24)
    return hf.BlipForImageTextRetrieval(config), hf.BlipImageProcessorPil(size=SIZE)


def lit(text: dict[str, Any]) -> tuple[Any, Any]:
    vision, text = hf.ViTConfig(**VISION), hf.BertConfig(**text)
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    return hf.VisionTextDualEncoderModel(config), hf.ViTImageProcessorPil(size=SIZE)


MAKERS: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "clip": clip, "metaclip_2": metaclip_2, "siglip": siglip, "siglip2": siglip2, "align": align, "altclip": altclip,
    "chinese_clip": chinese_clip, "flava": flava, "groupvit": groupvit, "clipseg": clipseg, "xclip": xclip, "blip": blip,
    "bridgetower": bridgetower,    "vision-text-dual-encoder": lit,
}  # fmt: skip


@pytest.fixture(scope="module", params=MAKERS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clip_tokenizer: Callable[[Path], int]
) -> tuple[str, Path]:
    family = request.param
    folder = tmp_path_factory.mktemp(family)
    causal = FAMILIES[family].causal
    if family == "siglip2":
        text = letter_text(folder)
    else:
        text = (
            causal_text(folder, clip_tokenizer(folder))
            if causal
            else word_text(folder, pad=1 if family in ("altclip", "bridgetower") else 0)
        )
    torch.manual_seed(0)
    model, processor = MAKERS[family](text)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights are small: far from them, mistakes show
            parameter.add_(torch.randn_like(parameter) * (0.3 if family == "align" else 0.05))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return family, folder


def theirs(family: str, folder: Path, pictures: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of transformers' whole model in float32, with its own processor; texts padded as its documentation pads."""
    model = getattr(hf, FAMILIES[family].model_class).from_pretrained(folder).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    photos = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in pictures]
    texts = hf.AutoTokenizer.from_pretrained(folder)(
        CAPTIONS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    if family in ("siglip", "siglip2"):  # trained without a mask, and its tokenizer gives none
        texts.pop("attention_mask", None)
    if family == "siglip2":
        with torch.inference_mode():
            outputs = model(**processor(photos, return_tensors="pt"), **texts)
        return unit(outputs.image_embeds), unit(outputs.text_embeds)
    if family == "xclip":  # of a still, each frame is the same
        pixel_values = processor([[photo] * 4 for photo in photos], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            videos = model.get_video_features(pixel_values=pixel_values).pooler_output
            return unit(videos), unit(model.get_text_features(**texts).pooler_output)
    pixel_values = processor(photos, return_tensors="pt")["pixel_values"]
    if family == "bridgetower":  # as many texts as images: its whole model takes pairs
        texts = {name: values[[0, 1, 2, 3, 3]] for name, values in texts.items() if name != "token_type_ids"}
        with torch.inference_mode():
            outputs = model(pixel_values=pixel_values, **texts)
        return unit(outputs.image_embeds), unit(outputs.text_embeds)[:4]
    with torch.inference_mode():
        if family == "blip":
            vision = model.vision_model(pixel_values).last_hidden_state[:, 0]
            words = model.text_encoder(texts["input_ids"], attention_mask=texts["attention_mask"]).last_hidden_state[:, 0]
            return unit(model.vision_proj(vision)), unit(model.text_proj(words))
        if family == "flava":
            images = model.get_image_features(pixel_values=pixel_values).pooler_output[:, 0]
            return unit(images), unit(model.get_text_features(**texts).pooler_output[:, 0])
        outputs = model(pixel_values=pixel_values, **texts)
    return unit(outputs.image_embeds), unit(outputs.text_embeds)


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def ours(folder: Path, pictures: list[bytes], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    encoder = encoder_of(folder, "cpu", dtype)
    decoded = [encoder.decode(pa.py_buffer(photo)) for photo in pictures]
    images = encoder.encode_images(encoder.stack([encoder.prepare(image) for image in decoded if image is not None]))
    return images, encoder.encode_texts(encoder.tokenize(CAPTIONS))


@pytest.mark.parametrize("dtype, most", [("float32", 0.05), ("bfloat16", 0.5)])
def test_it_agrees_with_transformers(made: tuple[str, Path], pictures: list[bytes], dtype: str, most: float) -> None:
    """The distance to transformers' vectors is small beside the distances between these: tiny models see little difference."""
    family, folder = made
    photos = pictures[:3] + pictures[5:7]  # not the one three pixels high: transformers takes that for channels
    for found, expected in zip(ours(folder, photos, dtype), theirs(family, folder, photos), strict=True):
        assert found.shape == expected.shape
        apart = np.linalg.norm(expected[:, None] - expected[None], axis=2)[~np.eye(len(expected), dtype=bool)].min()
        assert np.linalg.norm(found - expected, axis=1).max() < most * apart
        assert (found * expected).sum(axis=1).min() > (0.999 if dtype == "bfloat16" else 0.9999)


def test_its_pixels_are_made_here(made: tuple[str, Path]) -> None:
    """The processor itself, which is slow, is only asked where settings are of another kind."""
    if made[0] in ("siglip2", "bridgetower"):
        pytest.skip("patches and paddings are its processor's own")
    assert pixels.recipe(hf.AutoImageProcessor.from_pretrained(made[1], backend="pil")) is not None


def test_its_dimension_is_known_before_it_is_loaded(made: tuple[str, Path]) -> None:
    found = checkpoint.locate(str(made[1]), None)
    assert found.dim == len(ours_text(made[1]))
    config = json.loads((made[1] / "config.json").read_text())
    assert config["model_type"] in FAMILIES


def ours_text(folder: Path) -> np.ndarray:
    encoder = encoder_of(folder, "cpu", "float32")
    return encoder.encode_texts(encoder.tokenize(["a cat"]))[0]


def test_every_family_is_tested_and_in_the_docs() -> None:
    assert set(MAKERS) == set(FAMILIES)
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.split("## Families")[1].split("\n\n**")[0]
    assert [name for name in FAMILIES if f"| `{name}` |" not in table] == []
    assert [name for name in IMAGE_FAMILIES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_frames_of_an_animation_are_spread_evenly(tmp_path: Path, clip_tokenizer: Callable[[Path], int], kind: str) -> None:
    torch.manual_seed(0)
    model, processor = xclip(causal_text(tmp_path, clip_tokenizer(tmp_path)))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    colours = [(n * 24, 255 - n * 24, 100) for n in range(10)]
    frames = [Image.new("RGB", (40, 30), colour) for colour in colours]
    saved = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(saved, kind, save_all=True, append_images=frames[1:], duration=40, **options)
    encoder = encoder_of(tmp_path, "cpu", "float32")
    found = encoder.decode(pa.py_buffer(saved.getvalue()))
    assert found is not None
    assert found.shape == (4, 30, 40, 3)
    np.testing.assert_allclose(found[:, 0, 0], [colours[n] for n in (1, 3, 6, 8)], atol=8)
    inputs = processor([list(found)], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = unit(model.eval().get_video_features(pixel_values=inputs).pooler_output)
    ours = encoder.encode_images(encoder.stack([encoder.prepare(found)]))
    assert (ours * expected).sum() > 0.9999
    assert encoder.decode(pa.py_buffer(b"no image")) is None
    cut = encoder.decode(pa.py_buffer(saved.getvalue()[: len(saved.getvalue()) * 2 // 3]))  # some of the frames, or none
    assert cut is None or cut.shape == found.shape
