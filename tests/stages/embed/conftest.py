"""A tiny CLIP checkpoint with random weights, in the layout that transformers itself writes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

DIM = 24
WORDS = ("photo", "cat", "rocket")


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, which CLIP's vocabulary starts with."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [256 + i for i in range(256 - len(printable))]
    return [chr(code) for code in printable + rest]


def write_tokenizer(folder: Path) -> int:
    """vocab.json and merges.txt of a byte-pair tokenizer that knows a few words whole. Returns the size of the vocabulary."""
    tokens = _byte_characters()
    tokens += [token + "</w>" for token in tokens]
    merges: list[str] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = f"{pieces[0]} {pieces[1]}"
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if merge not in merges:
                merges.append(merge)
                tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(tokens)


@pytest.fixture(scope="session")
def clip_tokenizer() -> Callable[[Path], int]:
    return write_tokenizer


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("tiny-clip")
    size = write_tokenizer(folder)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": size,
            "max_position_embeddings": 16,
            "bos_token_id": size - 2,
            "eos_token_id": size - 1,
            "pad_token_id": size - 1,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16}))
    return folder


def encode(image: np.ndarray, extension: str = ".png") -> bytes:
    """An RGB image as a file's bytes."""
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def smooth_image(seed: int, height: int, width: int) -> np.ndarray:
    """Soft blotches of colour: something between noise and a photo."""
    noise = np.random.default_rng(seed).integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def pairs() -> Callable[[list[bytes | None], list[str | None]], pa.Table]:
    def make(images: list[bytes | None], captions: list[str | None]) -> pa.Table:
        return pa.table(
            {
                "ordinal": pa.array(range(len(images)), type=pa.int64()),
                "image": pa.array(images, type=pa.large_binary()),
                "caption": pa.array(captions, type=pa.string()),
            }
        )

    return make


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Eight images: png and jpg, upright and wide, grey, with alpha, smaller than the model's input, three pixels high."""
    shapes = [(40, 60, ".png"), (90, 50, ".jpg"), (64, 64, ".webp")]
    made = [encode(smooth_image(seed, *size), extension) for seed, (*size, extension) in enumerate(shapes)]
    made += [encode(smooth_image(3, 20, 25)), encode(smooth_image(4, 3, 50)), encode(smooth_image(5, 200, 33), ".jpg")]
    grey = cv2.cvtColor(smooth_image(6, 48, 48), cv2.COLOR_RGB2GRAY)
    alpha = cv2.cvtColor(smooth_image(7, 48, 52), cv2.COLOR_RGB2BGRA)
    made += [cv2.imencode(".png", image)[1].tobytes() for image in (grey, alpha)]
    return made


def answers_as_hub(repository: str, commit: str, folder: Path) -> type[BaseHTTPRequestHandler]:
    """What the hub answers for one repository whose main branch is at `commit`."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            prefix = f"/{repository}/resolve/"
            if path.startswith(f"/api/models/{repository}"):
                listing = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                entries = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
                self.answer(200, json.dumps(entries if "/tree/" in path else listing).encode())
            elif path.startswith(prefix):
                revision, name = path.removeprefix(prefix).split("/", 1)
                if revision not in ("main", commit):
                    self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
                elif name not in files:
                    self.answer(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                else:
                    tag = name.replace("/", "-")
                    self.answer(200, files[name], **{"X-Repo-Commit": commit, "ETag": f'"{tag}"'})
            else:
                self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def serve_hub() -> Iterator[Callable[[str, str, Path], str]]:
    """Serves a folder as a repository of the hub; gives the endpoint."""
    with ExitStack() as stack:

        def serve(repository: str, commit: str, folder: Path) -> str:
            server = stack.enter_context(closing(_Server(("127.0.0.1", 0), answers_as_hub(repository, commit, folder))))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def close(self) -> None:
        self.shutdown()
        self.server_close()
