"""Ways to make the forward pass of CLIP ViT-B/32 faster on a CPU, beside the one that `embed` takes.

    python benchmarks/forward.py DATA                            # folder with captions.tsv (header, then file TAB caption)

Each way runs on the very batches of `embed`, in turns with `embed`'s own pass. Printed are milliseconds of CPU a pair, how much
more a CPU second does than with that pass (median and range over the turns), and how far vectors are from those of
transformers' model in float32. What may pass: cosine at least 0.999, similarity off by at most 0.003. Weights are random, so a
way that passes here has not passed on published ones: their activations have outliers, which hurt 8 bits most.

`torch.compile` needs a C++ compiler.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embed import BATCH, batches, load, load_pairs, padded, write_checkpoint
from torch import nn

from pairsift.stages.embed.dual import DualEncoder

Pass = Callable[[], tuple[np.ndarray, np.ndarray]]  # vectors of the images and of the texts, in the order of the batches


def in_int8(layer: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's weights, and the scale of each output channel."""
    weight = layer.weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
    return (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class Int8Linear(nn.Module):
    """oneDNN's int8 product, in and out in bfloat16: a scale for each output channel, and one for all activations of a call."""

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        super().__init__()
        quantised, self._scales = in_int8(layer)
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, [rows, layer.in_features])
        self._bias = layer.bias.detach().float()
        self._zeros = torch.zeros(len(self._scales), dtype=torch.int64)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        scale = float(values.abs().amax()) / 127
        quantised = torch.quantize_per_tensor(values.float(), scale, 128, torch.quint8).int_repr()
        result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, scale, 128, self._packed, self._scales, self._zeros, self._bias, 1.0, 0, torch.bfloat16, "none", [], ""
        )
        return result


class TokenInt8Linear(nn.Module):
    """oneDNN's int8 product with a scale for each output channel and one for each token: nearer, and more work around it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, self._scales = in_int8(layer)
        self._weight = weight.t()
        self._bias = layer.bias.detach().float()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(0, -2)
        scales = flat.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-8) / 127
        product = torch._int_mm((flat / scales).round().to(torch.int8), self._weight)  # noqa: SLF001 - torch has no public name for it
        result = torch.addcmul(self._bias, product * scales, self._scales)
        return result.to(values.dtype).unflatten(0, values.shape[:-1])


class WeightOnly(nn.Module):
    """Weights in int8 with a scale for each output channel, activations in bfloat16: torch's own kernel."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight, scales = in_int8(layer)
        self._scales = scales.bfloat16()
        self._bias = layer.bias.detach()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(0, -2).contiguous()
        product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(flat, self._weight, self._scales)  # noqa: SLF001 - as above
        return product.unflatten(0, values.shape[:-1]) + self._bias


def replaced(model: Any, make: Callable[[nn.Linear], nn.Module]) -> Any:
    """The model with its linear layers in the transformers' blocks, which are all that have a bias, made anew."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.bias is not None:
                setattr(parent, name, make(layer))
    return model


def passes(model: Any, images: list[torch.Tensor], texts: list[torch.Tensor]) -> Pass:
    def run() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            ours = [model.get_image_features(pixel_values=values).pooler_output for values in images]
            said = [model.get_text_features(input_ids=ids).pooler_output for ids in texts]
        return _unit(ours), _unit(said)

    return run


def _unit(parts: list[torch.Tensor]) -> np.ndarray:
    return nn.functional.normalize(torch.cat(parts).float(), dim=-1).numpy()


class Towers(nn.Module):
    """Two traced or compiled towers in the model's place."""

    def __init__(self, images: Callable[..., Any], texts: Callable[..., Any]) -> None:
        super().__init__()
        self._sides = images, texts

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        return _Pooled(self._sides[0](pixel_values))

    def get_text_features(self, input_ids: torch.Tensor) -> Any:
        return _Pooled(self._sides[1](input_ids))


class _Pooled:
    def __init__(self, pooler_output: torch.Tensor) -> None:
        self.pooler_output = pooler_output


class Side(nn.Module):
    def __init__(self, model: Any, images: bool) -> None:
        super().__init__()
        self.model, self._images = model, images

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        features = self.model.get_image_features if self._images else self.model.get_text_features
        result: torch.Tensor = features(values).pooler_output
        return result


def compiled(model: Any) -> Towers:
    """torch's compiler with frozen weights; captions of any length without compiling anew."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return Towers(torch.compile(Side(model, True)), torch.compile(Side(model, False), dynamic=True))


def graphed(model: Any, images: list[torch.Tensor], texts: list[torch.Tensor]) -> Towers:
    """oneDNN Graph: traced and frozen. A trace holds for one shape, so there is one for each length of captions."""
    torch.jit.enable_onednn_fusion(True)
    jit: Any = torch.jit

    def traced(side: Side, values: torch.Tensor) -> Any:
        with torch.inference_mode(), torch.no_grad():
            return jit.freeze(jit.trace(side.eval(), values, check_trace=False, strict=False))

    sides = {}
    for kind, samples in ((True, images), (False, texts)):
        for sample in samples:
            if (kind, sample.shape) not in sides:
                sides[kind, sample.shape] = traced(Side(model, kind), sample)
    return Towers(lambda values: sides[True, values.shape](values), lambda ids: sides[False, ids.shape](ids))


def ways(folder: Path, images: list[torch.Tensor], texts: list[torch.Tensor]) -> dict[str, Callable[[], Pass]]:
    """By name, what makes it ready."""

    def short() -> Any:
        return load(folder, torch.bfloat16)

    def dynamic(engine: str) -> Pass:
        torch.backends.quantized.engine = engine
        quantize: Any = torch.ao.quantization.quantize_dynamic
        quantised = quantize(load(folder, torch.float32), {nn.Linear}, dtype=torch.qint8)
        return passes(quantised, [values.float() for values in images], texts)

    rows = BATCH * 50  # of an activation in the image tower
    return {
        "transformers": lambda: passes(short(), images, texts),
        "int8-onednn": lambda: passes(replaced(short(), lambda layer: Int8Linear(layer, rows)), images, texts),
        "int8-tokens": lambda: passes(replaced(short(), TokenInt8Linear), images, texts),
        "int8-weights": lambda: passes(replaced(short(), WeightOnly), images, texts),
        "torch.ao-x86": lambda: dynamic("x86"),
        "torch.ao-onednn": lambda: dynamic("onednn"),
        "onednn-graph": lambda: passes(graphed(short(), images, texts), images, texts),
        "compile": lambda: passes(compiled(short()), images, texts),
    }


def measure(name: str, run: Pass, own: Pass, expected: Any, repeats: int) -> None:
    began = time.process_time()
    run()  # compiles
    first = time.process_time() - began
    own()
    cpu: list[tuple[float, float]] = []
    for _ in range(repeats):
        began = time.process_time()
        own()
        between = time.process_time()
        found = run()
        cpu.append((between - began, time.process_time() - between))
    ratios = sorted(ours / theirs for ours, theirs in cpu)
    cosines = [float((a * b).sum(axis=1).min()) for a, b in zip(found, expected, strict=True)]
    # Texts lie in the order of their batches, so these are all photos with all texts, whosever they are.
    moved = np.abs(found[0] @ found[1].T - expected[0] @ expected[1].T).max()
    pairs = len(found[0])
    print(
        f"{name:16}{statistics.median(theirs for _, theirs in cpu) / pairs * 1e3:7.1f} ms, own "
        f"{statistics.median(ours for ours, _ in cpu) / pairs * 1e3:.1f}: {statistics.median(ratios):.2f} x "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}); first pass {first:.0f} s; cosine {cosines[0]:.6f} {cosines[1]:.6f}; "
        f"similarity {moved:.5f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways to make CLIP's forward pass faster on a CPU.")
    parser.add_argument("data", type=Path, help="folder with photos and captions.tsv")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", help="of those that are tried, some, with commas between")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = load_pairs(options.data, options.pairs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_checkpoint(folder, table["caption"].to_pylist())
        torch.set_num_threads(options.threads)
        encoder = DualEncoder(folder, "cpu", "bfloat16")
        images, tokens = batches(encoder, table)
        texts = [padded(batch) for batch in tokens]
        exact, _ = batches(DualEncoder(folder, "cpu", "float32"), table)
        expected = passes(load(folder, torch.float32), exact, texts)()
        own = passes(encoder.model, images, texts)
        for name, make in ways(folder, images, texts).items():
            if not options.ways or name in options.ways.split(","):
                try:
                    run = make()
                    measure(name, run, own, expected, options.repeats)
                except (RuntimeError, NotImplementedError, TypeError) as error:
                    print(f"{name}: cannot be had: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
