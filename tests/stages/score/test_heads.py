"""The aesthetic and safety heads: layers from files, and the stages that apply them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import save_file

from pairsift.stages.base import ConfigError, Stage
from pairsift.stages.score import heads
from pairsift.stages.score.aesthetic import Aesthetic
from pairsift.stages.score.nsfw import Nsfw


def column(rows: list[list[float] | None], dim: int) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float16(), dim))


def scores(stage: Stage, vectors: pa.Array) -> list[float | None]:
    stage.check()
    with stage.open() as transform:
        result = transform(pa.table({"image_embedding": vectors}))
    assert isinstance(result, pa.Table)
    assert result.schema == stage.writes()
    return result.column(0).to_pylist()


def test_laions_linear_head_gives_what_it_gave_for_real_photos(test_data: Path) -> None:
    rows = json.loads((test_data / "real_clip_vitb32_541.json").read_text())
    stage = Aesthetic(weights=str(test_data / "laion_heads" / "sa_0_4_vit_b_32_linear.pth"))
    found = np.array(scores(stage, column([row["vector"] for row in rows], 512)))
    assert len(found) == 541
    assert found.mean() == pytest.approx(5.97, abs=0.01)
    assert (found.min(), found.max()) == pytest.approx((3.38, 8.11), abs=0.02)


def test_laions_five_layers_are_those_of_their_own_network(test_data: Path) -> None:
    file = test_data / "laion_heads" / "sac+logos+ava1-l14-linearMSE.pth"
    sizes = [768, 1024, 128, 64, 16, 1]
    network = torch.nn.Sequential()  # as published: dropout between the layers, and no activation
    for number, place in enumerate((0, 2, 4, 6, 7)):
        network.add_module(str(place), torch.nn.Linear(sizes[number], sizes[number + 1]))
    weights = torch.load(file, weights_only=True, map_location="cpu")
    network.load_state_dict({name.removeprefix("layers."): value for name, value in weights.items()})
    vectors = np.random.default_rng(0).normal(size=(20, 768)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    exact = vectors.astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(exact / np.linalg.norm(exact, axis=1, keepdims=True)))[:, 0].tolist()
    found = scores(Aesthetic(weights=str(file)), column(vectors.tolist(), 768))
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_safety_head_has_relu_between_and_a_sigmoid_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    first = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    save_file({"layers.0.weight": first, "layers.0.bias": np.zeros(2, np.float32),
               "layers.10.weight": np.array([[2, 4]], np.float32), "layers.10.bias": np.ones(1, np.float32)}, file)  # fmt: skip
    vectors = column([[1, 0], [-1, 0], None, [0, 1]], 2)
    expected = [1 / (1 + np.exp(-logit)) for logit in (3, 5, 1)]
    assert scores(Nsfw(weights=str(file)), vectors) == pytest.approx([*expected[:2], None, expected[2]])
    assert scores(Nsfw(weights=str(file), output="identity"), vectors) == pytest.approx([3, 5, None, 1])
    assert scores(Nsfw(weights=str(file), output="identity", between="none"), vectors) == pytest.approx([-1, 3, None, 1])


def test_what_is_identified_is_the_content(tmp_path: Path) -> None:
    for name, factor in (("a.npz", 1), ("b.npz", 1), ("c.npz", 2)):
        np.savez(tmp_path / name, weight=np.full((1, 2), factor, np.float32), bias=np.zeros(1, np.float32))
    a, b, c = (Aesthetic(weights=str(tmp_path / name)).identity() for name in ("a.npz", "b.npz", "c.npz"))
    assert a == b != c
    assert "weights" not in Aesthetic(weights="x.npz").science()


@pytest.mark.parametrize(
    "tensors, says",
    [
        ({}, "has no tensor whose name ends in weight"),
        ({"weight": np.ones((1, 2))}, "has no tensor 'bias'"),
        ({"weight": np.ones((3, 2)), "bias": np.ones(3)}, "gives 3 values, not one"),
        ({"weight": np.ones(2), "bias": np.ones(1)}, "not .out, in. and .out,."),
        (
            {"0.weight": np.ones((3, 2)), "0.bias": np.ones(3), "1.weight": np.ones((1, 4)), "1.bias": np.ones(1)},
            "gives 3 values, the next takes 4",
        ),
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "head.npz", **tensors)
    with pytest.raises(ConfigError, match=says) as error:
        heads.load(str(tmp_path / "head.npz"), "score.aesthetic")
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        Nsfw(weights=str(tmp_path / "none.pth")).check()
    (tmp_path / "head.onnx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"is not one of \.safetensors"):
        Nsfw(weights=str(tmp_path / "head.onnx")).check()


def test_code_in_a_pickled_head_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (ran,))

    torch.save({"weight": Trap()}, tmp_path / "head.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        Aesthetic(weights=str(tmp_path / "head.pth")).check()
    assert not ran.exists()


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", weight=np.ones((1, 3), np.float32), bias=np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="has 2 dimensions, the head takes 3: they are not of one model"):
        scores(Aesthetic(weights=str(tmp_path / "head.npz")), column([[1, 0]], 2))
