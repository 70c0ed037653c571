import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.embed import checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-clip"


@pytest.fixture
def copy(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "copy"))


def test_a_folder_is_located_by_its_configuration(copy: Path) -> None:
    assert checkpoint.locate(str(copy), None) == (copy, None, 24, False)


def test_identity_of_a_folder_is_in_its_files(copy: Path, clip_folder: Path) -> None:
    def identity(folder: Path) -> str:
        return checkpoint.identity(checkpoint.locate(str(folder), None))

    assert identity(copy) == identity(clip_folder)
    (copy / "README.md").write_text("no result depends on this")
    assert identity(copy) == identity(clip_folder)
    with (copy / "merges.txt").open("a") as merges:
        merges.write("a b\n")
    assert identity(copy) != identity(clip_folder)


@pytest.mark.parametrize(
    "model, revision, says",
    [
        ("./nowhere", None, "neither an existing folder nor a name on the hub"),
        ("a/b/c", None, "neither an existing folder nor a name on the hub"),
        (__file__, None, "is a file"),
        (str(Path(__file__).parent), None, "without config.json, weights .*, an image processor .*, a tokenizer"),
    ],
)
def test_what_is_no_checkpoint_is_refused(model: str, revision: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        checkpoint.locate(model, revision)
    assert "\n" not in str(error.value)


def test_a_folder_has_no_revision(copy: Path) -> None:
    with pytest.raises(ConfigError, match="revision 'main' is for names on the hub"):
        checkpoint.locate(str(copy), "main")


@pytest.mark.parametrize("missing, says", [("config.json", "without config.json:"), ("model.safetensors", "without weights")])
def test_a_missing_file_is_named(copy: Path, missing: str, says: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ConfigError, match=says):
        checkpoint.locate(str(copy), None)


@pytest.mark.parametrize(
    "config, says",
    [('{"model_type": "bert"}', "of the family 'bert'"), ("[1]", "not a JSON object"), ("{", "not a JSON object")],
)
def test_another_family_is_named(copy: Path, config: str, says: str) -> None:
    (copy / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=says):
        checkpoint.locate(str(copy), None)


# The hub's client reads its settings when it is imported, so what asks it runs in a process of its own.

ASK = """
import json, pickle, sys
from pairsift.stages.base import ConfigError
from pairsift.stages.embed import Embed, checkpoint
try:
    stage = Embed(model=sys.argv[1], revision=json.loads(sys.argv[2]))
    stage.check()
    print("identity", stage.identity(), stage.writes().field("image_embedding").type.list_size)
    print("torch" in sys.modules, "transformers" in sys.modules)
    assert stage.identity() == f"{pickle.loads(pickle.dumps(stage))._commit} bfloat16"
    folder = checkpoint.fetch(stage.model, stage._locate(stage.model))
    print("files", *sorted(file.name for file in folder.iterdir()))
except ConfigError as error:
    print("ConfigError", error)
"""


def ask(model: str, endpoint: str, cache: Path, revision: str | None = None, **settings: str) -> str:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **settings}
    command = [sys.executable, "-c", ASK, model, json.dumps(revision)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def hub(copy: Path, serve_hub: Callable[[str, str, Path], str]) -> str:
    (copy / "open_clip_model.safetensors").write_bytes(b"another copy of the weights, not wanted")
    return serve_hub(NAME, COMMIT, copy)


def test_a_name_on_the_hub_is_pinned_to_its_commit_and_then_found_without_network(hub: str, tmp_path: Path) -> None:
    online = ask(NAME, hub, tmp_path / "cache")
    assert f"identity {COMMIT} bfloat16 24\nFalse False\n" in online
    assert "files config.json merges.txt model.safetensors preprocessor_config.json tokenizer_config.json vocab.json" in online
    gone = "http://127.0.0.1:9"
    assert ask(NAME, gone, tmp_path / "cache") == online
    assert ask(NAME, gone, tmp_path / "cache", HF_HUB_OFFLINE="1") == online


@pytest.mark.parametrize(
    "model, revision, says",
    [("someone/else", None, "the hub knows no such name"), (NAME, "v9", "has no revision 'v9' on the hub")],
)
def test_what_the_hub_has_not_is_said(hub: str, tmp_path: Path, model: str, revision: str | None, says: str) -> None:
    assert says in ask(model, hub, tmp_path / "cache", revision)


def test_a_hub_out_of_reach_is_said(tmp_path: Path) -> None:
    answer = ask(NAME, "http://127.0.0.1:9", tmp_path / "cache")
    assert "ConfigError embed: model 'someone/tiny-clip' cannot be fetched: no network or no hub" in answer
    assert "`model: embedded`" in answer
    assert answer.count("\n") == 1
