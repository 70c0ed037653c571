"""What all tests share: real photographs, a real web server that keeps a log, tiny CLIP checkpoints, one Ray."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None, derandomize=True)  # CI tries the same examples each time
settings.load_profile("shared machine")

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset's resizer would ask the network for a newer version
os.environ["TOKENIZERS_PARALLELISM"] = "false"

PLUGINS = str(Path(__file__).parent / "plugins")
TEST_DATA = Path(os.environ.get("PAIRSIFT_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()

sys.path.insert(0, PLUGINS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PLUGINS, os.environ.get("PYTHONPATH")]))  # for Ray's workers


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of shared test data; tests that need it are skipped where it is absent."""
    if not TEST_DATA.is_dir():
        pytest.skip("no test data: set PAIRSIFT_TEST_DATA")
    return TEST_DATA


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """Name → JPEG of real photographs that packages carry."""
    from pairsift.pipeline.demo import photos as demo_photos

    return {name: answer.body for name, answer in demo_photos.load().items()}


@pytest.fixture
def listing(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The config of an input of these rows; a row is (url, caption), or a dict of all columns."""

    def write(rows: list[Any], name: str = "rows.parquet", **parameters: Any) -> dict[str, Any]:
        path = tmp_path / name
        dicts = [row if isinstance(row, dict) else dict(zip(("url", "caption"), row, strict=True)) for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(dicts), path)
        return {"use": "read.urls", "path": str(path), "unit_rows": 4, **parameters}

    return write


@pytest.fixture
def captions(listing: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The config of an input of these captions, with a URL each that nobody serves."""

    def write(texts: list[str | None], **parameters: Any) -> dict[str, Any]:
        return listing([(f"http://example.com/{i}.jpg", text) for i, text in enumerate(texts)], **parameters)

    return write


@pytest.fixture
def curate(tmp_path: Path) -> Callable[..., Any]:
    """Runs stages over an input in this process, and returns the results."""
    import pairsift

    def run(source: dict[str, Any], *stages: dict[str, Any], output: str = "out", rows: int = 1000, **options: Any) -> Any:
        config = {"input": source, "output": str(tmp_path / output), "stages": list(stages), "shards": {"rows": rows}}
        return pairsift.run(config, **{"runner": "local", "replace": True, **options})

    return run


@dataclass
class Request:
    path: str
    began: float
    ended: float


@dataclass
class Web:
    """A web server on loopback: paths → bodies; every request is logged."""

    files: dict[str, bytes]
    base: str = ""
    delay: float = 0.0  # seconds before each answer
    requests: list[Request] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def most_at_once(self) -> int:
        """How many requests were being answered at the same moment, at most."""
        events = sorted([(r.began, 1) for r in self.requests] + [(r.ended, -1) for r in self.requests])
        now = most = 0
        for _, change in events:
            now += change
            most = max(most, now)
        return most


@pytest.fixture
def web(photos: dict[str, bytes]) -> Iterator[Web]:
    site = Web(dict(photos))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            began = time.monotonic()
            name = self.path.lstrip("/").split("?")[0]
            if name == "robots.txt" and name not in site.files:  # every host is asked for it: neither slowed nor logged
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            time.sleep(site.delay)
            body = site.files.get(name)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")
            site.requests.append(Request(name, began, time.monotonic()))

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *args: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    site.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Folder of a CLIP checkpoint with random weights, for a seed."""
    made: dict[int, str] = {}

    def make(seed: int) -> str:
        if seed not in made:
            made[seed] = _make_tiny_clip(tmp_path_factory.mktemp(f"clip{seed}"), seed)
        return made[seed]

    return make


def _make_tiny_clip(folder: Path, seed: int) -> str:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text = {
        **tower,
        "vocab_size": len(words),
        "max_position_embeddings": 77,
        "eos_token_id": len(words) - 1,
        "bos_token_id": len(words) - 2,
    }
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).eval().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a BLIP checkpoint with a matching head and random weights."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(words), "max_position_embeddings": 64, "encoder_hidden_size": 32, "pad_token_id": 0}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=24))
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights are small: far from them, mistakes show
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that run on it: starting it costs seconds."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def tiny_wordnet(tmp_path: Path) -> Path:
    """A dictionary in WordNet's files, with a dozen lemmas. Some offsets are WordNet 3.0's."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    entries = {
        "noun": "dog:2084071,10114209 glass:3438257 man:10287213 men:42 axis:6 ax:7 puppy:8 running:9 s:10 bark:2084071",
        "verb": "dog:2001858 run:1926311 bark:2084072 puppy:1",
        "adj": "big:1382086 running:11",
        "adv": "quickly:85811",
    }
    irregular = {"noun": "axes ax axis\ngeese goose\nmans\n", "verb": "ran run\n", "adj": "bigger big\n", "adv": "best well\n"}
    for part, text in entries.items():
        lines = ["  1 This is where the licence stands.  "]
        for entry in text.split():
            lemma, _, offsets = entry.partition(":")
            found = [f"{int(offset):08}" for offset in offsets.split(",")]
            lines.append(f"{lemma} {part[0]} {len(found)} 2 @ ~ {len(found)} 1 {' '.join(found)}  ")
        (folder / f"index.{part}").write_text("\n".join(lines) + "\n")
        (folder / f"{part}.exc").write_text(irregular[part])
    return folder
