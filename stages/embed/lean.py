"""Makes a transformer's forward pass leaner: the same function, with less work.

Everywhere:

- Of CLIP's image tower only the first token of the last layer is used, so only that one is worked out.

On a CPU in bfloat16:

- Linear layers keep their weights in oneDNN's own layout; torch brings them there anew in every call.
- The activation between the two layers of an MLP is worked out by the kernel of the first.
- CLIP's "quick" GELU, x * sigmoid(1.702 x), is swish(1.702 x) / 1.702, which that kernel knows: the factors go into the
  weights, in float32, before these are rounded.

What the kernels do is what torch's own compiler lets them do (`torch.compile` with frozen weights), without a compiler.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionModel

_QUICK = 1.702
# Private by their names, and what torch's compiler calls; `can_pack` finds out whether this torch has them.
_KERNELS: Any = torch.ops.mkldnn
# What transformers calls an activation: the kernel's name for it, and the kernel's variant.
_FUSED = {
    "quick_gelu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


class FirstTokenLayer(nn.Module):
    """The last layer of CLIP's image tower, for its first token: (n, tokens, width) to (n, 1, width)."""

    def __init__(self, layer: CLIPEncoderLayer) -> None:
        super().__init__()
        self._layer: Any = layer

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        """No token of an image is masked: `attention_mask` is None."""
        del attention_mask
        attention, first = self._layer.self_attn, hidden[:, :1]
        normed = self._layer.layer_norm1(hidden)
        projected = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
        heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected]
        queries, keys, values = heads
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
        first = first + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        result: torch.Tensor = first + self._layer.mlp(self._layer.layer_norm2(first))
        return result


class PackedLinear(nn.Module):
    """A linear layer with its weights in oneDNN's layout, and maybe an activation after it. Inference only."""

    def __init__(self, layer: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        super().__init__()
        self._packed = _KERNELS._reorder_linear_weight(layer.weight.detach())  # noqa: SLF001
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._activation, self._variant = activation

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        linear = _KERNELS._linear_pointwise  # noqa: SLF001
        result: torch.Tensor = linear(values, self._packed, self._bias, self._activation, [], self._variant)
        return result


def first_token_only(model: nn.Module) -> None:
    """Where the image tower is CLIP's own."""
    tower = getattr(model, "vision_model", None)
    if isinstance(tower, CLIPVisionModel) and type(tower.encoder.layers[-1]) is CLIPEncoderLayer:
        tower.encoder.layers[-1] = FirstTokenLayer(tower.encoder.layers[-1])


def fold_quick_gelu(model: nn.Module) -> None:
    """Call it before weights are rounded to bfloat16: the factors of the quick GELU go into the layers around it."""
    for mlp in _mlps(model):
        if _activation_name(mlp) == "quick_gelu":
            with torch.no_grad():
                mlp.fc1.weight.mul_(_QUICK)
                mlp.fc1.bias.mul_(_QUICK)
                mlp.fc2.weight.div_(_QUICK)
            mlp.activation_fn = nn.SiLU()


def pack(model: nn.Module) -> None:
    """Call it on a bfloat16 model on the CPU: replaces its linear layers, and joins activations to them."""
    for mlp in _mlps(model):
        fused = ("swish", "") if isinstance(mlp.activation_fn, nn.SiLU) else _FUSED.get(_activation_name(mlp) or "")
        if fused:
            mlp.fc1, mlp.activation_fn = PackedLinear(mlp.fc1, fused), nn.Identity()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # torch's own attention reads the weights of its subclass, and SigLIP 2 those of its patches
            if type(layer) is nn.Linear and name != "patch_embedding":
                setattr(parent, name, PackedLinear(layer))


def can_pack() -> bool:
    """Whether this build of torch has the kernels, for bfloat16, on this CPU."""
    try:
        layer = nn.Linear(32, 32).bfloat16()
        values = torch.ones(4, 32, dtype=torch.bfloat16)
        with torch.inference_mode():
            ours, theirs = PackedLinear(layer, ("swish", ""))(values), nn.functional.silu(layer(values))
        return bool(torch.allclose(ours.float(), theirs.float(), atol=0.05))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _mlps(model: nn.Module) -> list[Any]:
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "fc1", None), nn.Linear)
        and isinstance(getattr(module, "fc2", None), nn.Linear)
        and hasattr(module, "activation_fn")
    ]


def _activation_name(mlp: Any) -> str | None:
    """transformers' name for the activation between the two layers."""
    return getattr(getattr(mlp, "config", None), "hidden_act", None)
