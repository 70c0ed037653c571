import asyncio
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pairsift.stages import devices, schema
from pairsift.stages.base import ConfigError, Resources
from pairsift.stages.embed import Embed
from pairsift.stages.embed.pixels import decode

MakePairs = Callable[[list[bytes | None], list[str | None]], pa.Table]


def run(stage: Embed, table: pa.Table) -> pa.Table:
    async def embed() -> pa.Table:
        with stage.open() as transform:
            return await transform(table)

    result = asyncio.run(embed())
    assert isinstance(result, pa.Table)
    return result


def vectors(table: pa.Table, column: str) -> np.ndarray:
    return np.array(table[column].drop_null().to_pylist(), dtype=np.float32)


def test_adds_unit_vectors_in_float16(clip_folder: Path, pairs: MakePairs, pictures: list[bytes]) -> None:
    stage = Embed(model=str(clip_folder))
    stage.check()
    result = run(stage, pairs(pictures, ["a cat"] * len(pictures)))
    assert result.select(["image_embedding", "text_embedding"]).schema == stage.writes()
    assert result["failure"].null_count == len(pictures)
    for column in ("image_embedding", "text_embedding"):
        assert result.schema.field(column).type == schema.embedding("v", 24).type
        np.testing.assert_allclose(np.linalg.norm(vectors(result, column), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("only, column", [("images", "image_embedding"), ("texts", "text_embedding")])
def test_one_side_alone(clip_folder: Path, pairs: MakePairs, pictures: list[bytes], only: str, column: str) -> None:
    stage = Embed.model_validate({"model": str(clip_folder), "only": only})
    table = pairs([pictures[0], b"damaged", pictures[1]], ["a cat", "rocket", None])
    result = run(stage, table.select(["ordinal", *stage.reads()]))
    assert result.column_names == [column, "failure", "failure_detail"]
    expected = {"images": [False, True, False], "texts": [False, False, True]}[only]
    assert result[column].is_null().to_pylist() == expected
    assert result["failure"].null_count == (2 if only == "images" else 3)


def test_what_is_no_image_fails_and_what_is_no_caption_is_null(
    clip_folder: Path, pairs: MakePairs, pictures: list[bytes]
) -> None:
    good, cut = pictures[0], pictures[0][:40]
    table = pairs([good, None, b"", b"not an image", cut, good, good, good], ["a", "b", "c", "d", "e", None, "", " \n"])
    result = run(Embed(model=str(clip_folder)), table)
    assert result["failure"].to_pylist() == [None, *["image_unreadable"] * 4, None, None, None]
    assert result["image_embedding"].is_null().to_pylist() == [False, *[True] * 4, False, False, False]
    assert result["text_embedding"].is_null().to_pylist() == [False, *[True] * 7]
    images = vectors(result, "image_embedding")
    np.testing.assert_allclose(images, images[:1].repeat(4, axis=0), atol=1e-3)


def test_values_that_are_not_finite_fail_their_rows(
    clip_folder: Path, pairs: MakePairs, pictures: list[bytes], tmp_path: Path
) -> None:
    """A model that overflows, as some do in float16."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip_folder, tmp_path / "overflowing")
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"] *= 1e39
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run(Embed(model=str(folder)), pairs(pictures[:2], ["a cat", None]))
    assert result["failure"].to_pylist() == ["not_finite", None]
    assert result["image_embedding"].is_null().to_pylist() == [True, False]


def test_the_loss_of_the_device_comes_out_as_what_it_is(
    clip_folder: Path, pairs: MakePairs, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a batch that does not fit, nor as a failure of rows; and the stage can be left."""
    import torch

    from pairsift.stages.embed.dual import DualEncoder

    def lost(self: DualEncoder, batch: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with ...")

    monkeypatch.setattr(DualEncoder, "_images", lost)
    images: list[bytes | None] = [*pictures]
    table = pairs(images, ["a" for _ in pictures])
    with pytest.raises(torch.AcceleratorError) as caught:
        run(Embed(model=str(clip_folder)), table)
    assert devices.loss(caught.value) == "CUDA error: unspecified launch failure"


def test_rows_keep_their_places_over_batches(clip_folder: Path, pairs: MakePairs, pictures: list[bytes]) -> None:
    images: list[bytes | None] = [*pictures, None, *pictures]
    captions: list[str | None] = [f"photo {row}" if row % 3 else None for row in range(len(images))]
    table = pairs(images, captions)
    whole = run(Embed(model=str(clip_folder)), table)
    halves = run(Embed(model=str(clip_folder), batch_size=3), pa.concat_tables([table.slice(0, 5), table.slice(5)]))
    for column in ("image_embedding", "text_embedding"):
        assert whole[column].is_null().to_pylist() == halves[column].is_null().to_pylist()
        np.testing.assert_allclose(vectors(whole, column), vectors(halves, column), atol=2e-3)
    assert whole["text_embedding"].is_null().to_pylist() == [row % 3 == 0 or row == 8 for row in range(17)]


def test_same_bytes_every_time_and_in_every_process(
    clip_folder: Path, pairs: MakePairs, pictures: list[bytes], tmp_path: Path
) -> None:
    stage, table = Embed(model=str(clip_folder)), pairs(pictures, ["a cat", "x", None, "rocket", "b", "c d", "e", "f"])
    here = run(stage, table)
    assert here.equals(run(stage, table))
    (tmp_path / "work").write_bytes(pickle.dumps((stage, table)))
    there = (
        "import asyncio, pickle, sys; stage, table = pickle.load(open(sys.argv[1], 'rb'))\n"
        "filler = bytearray(12345)\n"
        "async def embed():\n"
        "    with stage.open() as transform: pickle.dump(await transform(table), open(sys.argv[2], 'wb'))\n"
        "asyncio.run(embed())"
    )
    subprocess.run([sys.executable, "-c", there, str(tmp_path / "work"), str(tmp_path / "done")], check=True, timeout=60)
    assert here.equals(pickle.loads((tmp_path / "done").read_bytes()))


def test_all_null_and_empty_tables(clip_folder: Path, pairs: MakePairs) -> None:
    stage = Embed(model=str(clip_folder))
    assert run(stage, pairs([None, None], [None, None]))["failure"].to_pylist() == ["image_unreadable"] * 2
    assert run(stage, pairs([], [])).num_rows == 0


def test_the_pixels_are_those_that_readers_of_the_shard_see() -> None:
    red_left = np.zeros((40, 80, 3), dtype=np.uint8)
    red_left[:, :40, 2] = 255  # BGR
    jpeg = cv2.imencode(".jpg", red_left)[1].tobytes()
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turned
    turned = jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:]
    image = decode(pa.py_buffer(turned))
    assert image is not None
    assert image.shape == (40, 80, 3)
    assert image[20, 10].tolist() == pytest.approx([255, 0, 0], abs=4)


def test_only_what_changes_results_is_science() -> None:
    science = Embed(model="embedded", device="cuda:1", batch_size=7, resources=Resources(gpus=1)).science()
    assert science == {"dtype": "auto", "only": None}  # what `model` stands for is in identity()


def test_the_config_decides_on_the_device() -> None:
    assert Embed(model="embedded")._available_device() == "cpu"
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees no GPU on this worker"):
            Embed(model="embedded", resources=Resources(gpus=1))._available_device()
    with pytest.raises(ValidationError):
        Embed(device="tpu")


def test_remote_code_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="trust_remote_code"):
        Embed.model_validate({"model": "a/b", "trust_remote_code": True})


def test_planning_never_imports_torch(clip_folder: Path) -> None:
    code = (
        "import sys, pairsift.stages.score.clip_similarity; from pairsift.stages.embed import Embed\n"
        "for model in sys.argv[1:]:\n"
        "    stage = Embed(model=model); stage.check(); stage.writes(); stage.identity(); stage.notice()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(clip_folder), "embedded"], check=True, timeout=60)


def test_the_number_format_is_part_of_the_identity(clip_folder: Path) -> None:
    """`dtype: auto` is float16 on a GPU: its vectors must not pass for those that a CPU gave."""
    on_cpu, on_gpu = Embed(model=str(clip_folder)), Embed(model=str(clip_folder), resources=Resources(gpus=1))
    assert on_cpu.identity() == Embed(model=str(clip_folder), dtype="bfloat16", batch_size=3).identity()
    assert on_gpu.identity() == Embed(model=str(clip_folder), dtype="float16").identity() != on_cpu.identity()
