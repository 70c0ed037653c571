import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pairsift.stages.base import ConfigError
from pairsift.stages.score.matching import Matching

CAPTIONS = ["a cup of coffee", "a rocket on its launch pad", "x", "a cup of coffee, and a very long story about it " * 9]


def answer(stage: Matching, images: list[Any], captions: list[Any]) -> dict[str, list[Any]]:
    stage.check()
    batch = {"image": pa.array(images, pa.large_binary()), "caption": pa.array(captions, pa.string())}
    with stage.open() as transform:
        result = transform(pa.table(batch))
    assert isinstance(result, pa.Table)
    found: dict[str, list[Any]] = result.to_pydict()
    return found


def test_it_is_transformers_own_answer(tiny_blip: str, photos: dict[str, bytes]) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

    def png(name: str) -> bytes:  # no JPEG: decoders differ by a level
        file = io.BytesIO()
        Image.open(io.BytesIO(photos[name])).convert("RGB").save(file, "PNG")
        return file.getvalue()

    images = [png("coffee.jpg"), png("rocket.jpg")]
    processors: Any = AutoImageProcessor
    processor = processors.from_pretrained(tiny_blip, backend="pil")
    model: Any = BlipForImageTextRetrieval.from_pretrained(tiny_blip)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_blip)
    expected = []
    for data in images:
        for caption in CAPTIONS:
            words = tokenizer(caption, truncation=True, max_length=35, return_tensors="pt")
            pixels = processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                scores = model(words["input_ids"], pixels, attention_mask=words["attention_mask"]).itm_score
            expected.append(float(scores.softmax(dim=1)[0, 1]))
    found = answer(Matching(model=tiny_blip), [data for data in images for _ in CAPTIONS], CAPTIONS * 2)
    np.testing.assert_allclose(found["match_probability"], expected, atol=1e-4)
    assert np.ptp(expected) > 0.01
    half = answer(Matching(model=tiny_blip, dtype="bfloat16"), [images[0]] * 4, CAPTIONS)["match_probability"]
    np.testing.assert_allclose(half, expected[:4], atol=0.03)
    assert half != found["match_probability"][:4]


def test_rows_that_have_no_answer(tiny_blip: str, photos: dict[str, bytes]) -> None:
    coffee = photos["coffee.jpg"]
    found = answer(
        Matching(model=tiny_blip), [coffee, coffee, coffee, None, b"", b"broken"], ["a cup", None, " \n", "a", "b", "c"]
    )
    assert [value is None for value in found["match_probability"]] == [False, True, True, True, True, True]
    assert found["failure"] == [None, None, None, None, "image_unreadable", "image_unreadable"]


def test_a_model_that_gives_no_number(tiny_blip: str, tmp_path: Path, photos: dict[str, bytes]) -> None:
    from transformers import BlipForImageTextRetrieval

    shutil.copytree(tiny_blip, tmp_path / "nan")
    model = BlipForImageTextRetrieval.from_pretrained(tiny_blip)
    with torch.no_grad():
        model.itm_head.bias.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    found = answer(Matching(model=str(tmp_path / "nan")), [photos["coffee.jpg"]], ["a cup"])
    assert found == {"match_probability": [None], "failure": ["not_finite"]}


def test_what_is_no_such_model(tiny_blip: str, tiny_clip: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is CLIPModel, not a BlipForImageTextRetrieval"):
        Matching(model=tiny_clip(0)).check()
    with pytest.raises(ConfigError, match=r"no folder with a config.json: fetch the checkpoint first"):
        Matching(model="Salesforce/blip-itm-base-coco").check()
    shutil.copytree(tiny_blip, tmp_path / "deeper")
    config = json.loads((tmp_path / "deeper" / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(config))
    assert Matching(model=str(tmp_path / "deeper")).identity() != Matching(model=tiny_blip).identity()
    with pytest.raises(ConfigError, match=r"the weights in .* lack \d+ tensors, such as text_encoder"):
        answer(Matching(model=str(tmp_path / "deeper")), [b""], ["a"])
