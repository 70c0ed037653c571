import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.text.tokens import Tokens


def test_tokens_are_those_of_the_model(answers: Any, tiny_clip: Callable[[int], str]) -> None:
    from transformers import CLIPTokenizer

    folder = tiny_clip(0)
    texts = ["a dog", "", "x" * 300, "many words " * 50, "日本 🙂"]
    model: Any = CLIPTokenizer.from_pretrained(folder)
    expected = [len(model(text, truncation=False)["input_ids"]) for text in texts]
    assert answers(Tokens(tokenizer=folder), [*texts, None])["tokens"] == [*expected, None]
    without = answers(Tokens(tokenizer=f"{folder}/tokenizer.json", special=False), texts)["tokens"]
    assert without == [count - 2 for count in expected]
    assert max(expected) > 77


def test_it_is_known_by_its_content(tiny_clip: Callable[[int], str], tmp_path: Path) -> None:
    stage = Tokens(tokenizer=tiny_clip(0))
    data = json.loads((Path(tiny_clip(0)) / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, "version": "2"}))
    assert stage.identity() != Tokens(tokenizer=str(tmp_path)).identity()
    with pytest.raises(ConfigError, match="there is no"):
        Tokens(tokenizer=str(tmp_path / "none")).check()
