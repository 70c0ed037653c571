"""A tiny multilingual text tower beside a tiny CLIP, against sentence-transformers itself."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed, text_tower
from pairsift.stages.embed.text_tower import TextTower

CAPTIONS = ["a photo of a cat", "une photo", "eine Rakete auf einem Foto " * 6, "Foto", "a cat"]


def save_words(folder: Path) -> int:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in CAPTIONS for word in text.lower().split()})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    return len(words)


@pytest.fixture(scope="module", params=["mean", "cls"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sentence-transformers writes it: DistilBERT of 32, a Dense layer to CLIP's 24 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    folder = tmp_path_factory.mktemp("tower")
    plain = folder / "plain"
    plain.mkdir()
    torch.manual_seed(0)
    config = hf.DistilBertConfig(
        vocab_size=save_words(plain), dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=32
    )
    model = hf.DistilBertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=16)
    dense = Dense(32, 24, bias=False, activation_function=torch.nn.Identity())
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=request.param), dense], device="cpu").save(
        str(folder / "tower")
    )
    return folder / "tower"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_agrees_with_sentence_transformers(tower: Path) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(tower), device="cpu").encode(CAPTIONS, normalize_embeddings=True)
    files = text_tower.locate(str(tower))
    assert files.dim == 24
    for dtype, least in (("float32", 0.99999), ("bfloat16", 0.999)):
        loaded = TextTower(files, "cpu", dtype)
        found = loaded.encode_texts(loaded.tokenize(CAPTIONS))
        assert found.shape == (5, 24)
        assert (found * expected).sum(axis=1).min() > least


def test_images_of_one_and_texts_of_the_other(
    tower: Path, clip_folder: Path, pairs: Callable[..., pa.Table], pictures: list[bytes]
) -> None:
    def run(stage: Embed) -> pa.Table:
        async def embed() -> Any:
            with stage.open() as transform:
                return await transform(pairs(pictures[:3], ["a cat", "Foto", None]))

        stage.check()
        return asyncio.run(embed())

    both = Embed(model=str(clip_folder), text_model=str(tower), dtype="float32")
    alone = Embed(model=str(clip_folder), dtype="float32")
    found, clip = run(both), run(alone)
    assert found["image_embedding"].equals(clip["image_embedding"])
    loaded = TextTower(text_tower.locate(str(tower)), "cpu", "float32")
    texts = loaded.encode_texts(loaded.tokenize(["a cat", "Foto"]))
    np.testing.assert_allclose(np.array(found["text_embedding"].to_pylist()[:2], np.float32), texts, atol=2e-3)
    assert not found["text_embedding"][2].is_valid
    assert both.identity() != alone.identity()
    assert "text_model" not in both.science()


def test_what_is_no_tower_for_this_model(tower: Path, clip_folder: Path, tmp_path: Path) -> None:
    def says(folder: Path, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            Embed(model=str(clip_folder), text_model=str(folder)).check()

    says(tmp_path, "is no folder with a modules.json")
    other = shutil.copytree(tower, tmp_path / "other")
    dense = next(other.glob("*_Dense")) / "config.json"
    settings = json.loads(dense.read_text())
    dense.write_text(json.dumps({**settings, "out_features": 25}))
    says(other, "gives vectors of 25, model .* of 24: they are not towers of one space")
    dense.write_text(json.dumps({**settings, "activation_function": "torch.nn.modules.activation.Tanh"}))
    says(other, "its Dense layer ends in torch.nn.modules.activation.Tanh")
    (other / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.CLIPModel", "path": ""}]))
    says(other, "is made of CLIPModel")
    with pytest.raises(ConfigError, match="not with `model: embedded`"):
        Embed(model="embedded", text_model=str(tower)).check()


# The hub's client reads its settings when it is imported, so what asks it runs in a process of its own.
ASK = """
import pickle, sys
from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed
try:
    stage = Embed(model=sys.argv[1], text_model="someone/tower", text_revision=sys.argv[2] or None, dtype="float32")
    stage.check()
    print("identity", stage.identity(), "torch" in sys.modules)
    encoder = pickle.loads(pickle.dumps(stage)).load_encoder()
    print(encoder.encode_texts(encoder.tokenize(["a cat"]))[0, :2].tolist())
except ConfigError as error:
    print("ConfigError", error)
"""


@pytest.mark.parametrize("tower", ["mean"], indirect=True)
def test_a_tower_on_the_hub_is_pinned_and_then_found_without_network(
    tower: Path, clip_folder: Path, tmp_path: Path, serve_hub: Callable[[str, str, Path], str]
) -> None:
    commit = "89abcdef0123456789abcdef0123456789abcdef"
    endpoint = serve_hub("someone/tower", commit, tower)

    def ask(endpoint: str, revision: str = "") -> str:
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", ASK, str(clip_folder), revision]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    online = ask(endpoint)
    loaded = TextTower(text_tower.locate(str(tower)), "cpu", "float32")
    vector = loaded.encode_texts(loaded.tokenize(["a cat"]))[0, :2].tolist()
    assert f" {commit} float32 False\n{vector}\n" in online
    assert ask("http://127.0.0.1:9") == online
    assert "text_model 'someone/tower' has no revision 'v9' on the hub" in ask(endpoint, "v9")


def test_a_revision_needs_a_name_on_the_hub(tower: Path, clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match="text_revision 'main' is for names on the hub"):
        Embed(model=str(clip_folder), text_model=str(tower), text_revision="main").check()
    with pytest.raises(ConfigError, match="text_revision 'main' is of a text_model, and there is none"):
        Embed(model=str(clip_folder), text_revision="main").check()
