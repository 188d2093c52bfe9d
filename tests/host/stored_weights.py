"""Weights as users have them: fp8 with scales, quantised layers, packed bytes, weights that are elsewhere until used.

The first two are made as entries of a file, from plain weights; the others are Linears for a model of the host.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import comfy.ops
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Entries = dict[str, Tensor]
FP8 = torch.float8_e4m3fn
FORMATS = {
    "fp8": ("float8_e4m3fn", {"scale": "recalculate"}, {}),
    "fp8, full precision products": (
        "float8_e4m3fn",
        {"scale": "recalculate"},
        {"full_precision_matrix_mult": True},
    ),
    "int8": ("int8_tensorwise", {"per_channel": True}, {}),
    "int8, rotated": (
        "int8_tensorwise",
        {"per_channel": True, "convrot": True, "convrot_groupsize": 16},
        {"convrot": True, "convrot_groupsize": 16},
    ),
    "mxfp8": ("mxfp8", {}, {}),
    "nvfp4": ("nvfp4", {"scale": "recalculate"}, {}),
}
"""Name -> the host's name of the format, how a tensor is quantised, what else a layer's entry says."""


def matrices(weights: Entries, of: str = "") -> list[str]:
    """The layers whose weights are matrices, without `.weight`; of: a pattern that their names contain."""
    found = (name.removesuffix(".weight") for name, weight in weights.items() if weight.ndim == 2)
    return [layer for layer in found if f"{layer}.weight" in weights and re.search(of, layer)]


def scaled_fp8(weights: Entries) -> Entries:
    """Every matrix in fp8 with a scale of its own, and an entry that says so: files of before mixed precision."""
    entries = dict(weights)
    for layer in matrices(weights):
        weight = weights[f"{layer}.weight"].float()
        scale = weight.abs().max() / torch.finfo(FP8).max
        entries |= {f"{layer}.weight": (weight / scale).to(FP8), f"{layer}.scale_weight": scale}
    return entries | {"scaled_fp8": torch.zeros(0, dtype=FP8)}


def quantised(form: str) -> Callable[[Entries], Entries]:
    """Makes the entries of a file whose blocks have matrices in one of FORMATS; skips where the host has not."""
    name, how, said = FORMATS[form]
    quant_ops = pytest.importorskip("comfy.quant_ops", reason="this ComfyUI has no quantised layers")
    algorithm = getattr(quant_ops, "QUANT_ALGOS", {}).get(name)
    if algorithm is None or not hasattr(quant_ops.QuantizedTensor, "state_dict"):
        pytest.skip(f"this ComfyUI has no format {name}")

    def store(weights: Entries) -> Entries:
        entries = dict(weights)
        for layer in matrices(weights, r"blocks\.\d"):
            weight = entries.pop(f"{layer}.weight")
            entries |= quant_ops.QuantizedTensor.from_float(weight, algorithm["comfy_tensor_layout"], **how).state_dict(
                f"{layer}.weight"
            )
            conf = json.dumps({"format": name} | said).encode()
            entries[f"{layer}.comfy_quant"] = torch.tensor(list(conf), dtype=torch.uint8)
        return entries

    return store


def with_formats_in_metadata(entries: Entries) -> tuple[Entries, dict[str, str]]:
    """The formats of layers in the file's metadata instead of an entry for each."""
    ends = ".comfy_quant"
    layers = {k.removesuffix(ends): json.loads(bytes(v.tolist())) for k, v in entries.items() if k.endswith(ends)}
    rest = {name: tensor for name, tensor in entries.items() if not name.endswith(ends)}
    return rest, {"_quantization_metadata": json.dumps({"layers": layers})}


class NotesReaders(nn.Module):
    """Notes which files of the pack look at `weight`, of which only the layer itself knows what it is."""

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            reader = sys._getframe(1).f_globals["__name__"]
            if reader.startswith("astraea"):
                vars(self).setdefault("readers", set()).add(reader)
        return super().__getattr__(name)


def readers(modules: Iterable[nn.Module]) -> set[str]:
    """The files of the pack that have looked at the weights of any of these."""
    return set().union(*(vars(module).get("readers", ()) for module in modules))


BLOCK, BLOCK_BYTES = 32, 34  # values of a packed block; its bytes: a scale in fp16, a byte for each value


class PackedOperations(comfy.ops.manual_cast):
    """Linears that keep a row of bytes and unpack it in forward, as loaders of GGUF files do."""

    class Linear(NotesReaders):
        def __init__(
            self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
        ):
            super().__init__()
            self.in_features, self.out_features = in_features, out_features
            shape = torch.Size((out_features, in_features))
            packed = torch.empty(shape.numel() // BLOCK * BLOCK_BYTES, device=device, dtype=torch.uint8)
            self.weight = nn.Parameter(packed, requires_grad=False)
            self.weight.tensor_shape = shape
            empty = torch.empty(out_features, device=device, dtype=torch.float32)
            self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

        def forward(self, x: Tensor) -> Tensor:
            weight = unpack(self.weight).reshape(self.weight.tensor_shape)
            return linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def packed(weights: Entries) -> Entries:
    """Every matrix as PackedOperations keeps it."""
    return weights | {f"{layer}.weight": pack(weights[f"{layer}.weight"]) for layer in matrices(weights)}


def pack(weight: Tensor) -> Tensor:
    blocks = weight.float().reshape(-1, BLOCK)
    scale = (blocks.abs().amax(1, keepdim=True) / 127.0).half()
    values = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((scale.view(torch.uint8), values.view(torch.uint8)), 1).flatten()


def unpack(data: Tensor) -> Tensor:
    blocks = data.detach().reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return (blocks[:, 2:].contiguous().view(torch.int8).float() * scale).flatten()


class LateOperations(comfy.ops.disable_weight_init):
    """Linears whose weights are elsewhere but while they run, as with dynamically loaded ones."""

    class Linear(NotesReaders, comfy.ops.disable_weight_init.Linear):
        def take_away(self, instead: Tensor | None) -> None:
            vars(self)["elsewhere"] = self.weight.detach()
            self.weight = None if instead is None else nn.Parameter(instead, requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return linear(x, vars(self)["elsewhere"], self.bias)


def take_away(model: nn.Module, instead: Callable[[nn.Linear], Tensor | None]) -> None:
    """Leaves something else in the place of each Linear's weight."""
    for module in model.modules():
        if isinstance(module, LateOperations.Linear):
            module.take_away(instead(module))
