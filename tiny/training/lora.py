"""Low-rank adapters (LoRA, arXiv 2106.09685) on the tiny model, stored as ComfyUI's *Load LoRA* reads them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..model import TinyWan

RANK = 16  # in training
SAVED_RANK = 15  # of files: at most 1 MB in half precision
PREFIX = "diffusion_model."
# The first layer of the time features stays: fast waves were removed from it, and an adapter would learn them again.
KEPT = ("time_embedding.0",)


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus a product of two thin matrices. down: `[RANK, in]`, up: `[out, RANK]`, at first 0."""

    def __init__(self, base: nn.Linear, generator: torch.Generator):
        super().__init__()
        self.weight, self.bias = (p.detach().requires_grad_(False) for p in (base.weight, base.bias))
        down = torch.randn(RANK, base.in_features, generator=generator) * base.in_features**-0.5
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros(base.out_features, RANK))

    def merged(self) -> Tensor:
        return self.weight + self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.merged(), self.bias)


def adapt(model: TinyWan, seed: int) -> TinyWan:
    """Freeze a model and give each of its linear layers, but KEPT, an adapter of no effect yet."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name not in KEPT:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, AdaptedLinear(layer, generator))
    return model


def adapted_layers(model: TinyWan) -> dict[str, AdaptedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, AdaptedLinear)}


def adapter_parameters(model: TinyWan) -> list[nn.Parameter]:
    return [parameter for layer in adapted_layers(model).values() for parameter in (layer.down, layer.up)]


def save_adapters(model: TinyWan, path: Path, metadata: dict[str, str]) -> None:
    """Save the adapters in fp16, the nearest of SAVED_RANK. Without a scale, ComfyUI adds the product as it is."""
    tensors = {}
    for name, layer in adapted_layers(model).items():
        up, scale, down = torch.linalg.svd((layer.up @ layer.down).detach(), full_matrices=False)
        root = scale[:SAVED_RANK].sqrt()
        tensors[f"{PREFIX}{name}.lora_A.weight"] = (root[:, None] * down[:SAVED_RANK]).half().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = (up[:, :SAVED_RANK] * root).half().contiguous()
    save_file(tensors, path, metadata={"format": "pt", **metadata})


@torch.no_grad()
def load_adapters(model: TinyWan, path: Path) -> None:
    """Load saved adapters into an adapted model."""
    tensors = load_file(path)
    for name, layer in adapted_layers(model).items():
        layer.down[:SAVED_RANK].copy_(tensors[f"{PREFIX}{name}.lora_A.weight"])
        layer.up[:, :SAVED_RANK].copy_(tensors[f"{PREFIX}{name}.lora_B.weight"])
        layer.up[:, SAVED_RANK:] = 0.0


@torch.no_grad()
def merge_adapters(model: TinyWan, path: Path) -> TinyWan:
    """Add saved adapters to the weights of a plain model."""
    tensors = load_file(path)
    for key, down in tensors.items():
        name, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if kind == "A.weight":
            up = tensors[f"{PREFIX}{name}.lora_B.weight"]
            model.get_submodule(name).get_parameter("weight").add_(up.float() @ down.float())
    return model
