"""A Wan 2.1 text-to-video MODEL of any size with random weights, made in memory and loaded by the host itself.

The host's own class says which tensors there are; the host's own loader finds out from them what model it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEAD_DIM = 128
TEXT_DIM = 4096


@dataclass(frozen=True)
class WanSize:
    """What the Wan format leaves free; `dim` is a multiple of 128. The defaults are those of Wan 2.1 1.3B."""

    dim: int = 1536
    feed_forward: int = 8960
    layers: int = 30
    context: int = 512

    def label(self) -> str:
        return f"dim {self.dim}, ffn {self.feed_forward}, {self.layers} blocks, {self.dim // HEAD_DIM} heads"


def random_state_dict(size: WanSize, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the model: normal, as wide as keeps the hidden state's size; norms near 1, biases near 0."""
    import comfy.ops
    import torch
    from comfy.ldm.wan.model import WanModel

    bare = WanModel(
        dim=size.dim, ffn_dim=size.feed_forward, num_heads=size.dim // HEAD_DIM, num_layers=size.layers,
        text_dim=TEXT_DIM, device="meta", dtype=dtype, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    generator = torch.Generator(device).manual_seed(seed)
    filled = {}
    for name, tensor in bare.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device=device)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        is_norm = tensor.ndim == 1 and name.endswith("weight")
        values = 1.0 + 0.02 * values if is_norm else values * (fan_in**-0.5 if fan_in > 1 else 0.02)
        filled[name] = values.to(dtype).cpu()
    return filled


def load_random_wan(size: WanSize, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Any:
    """The MODEL. device: where the random numbers are drawn (a GPU is faster); the host decides where it runs."""
    import comfy.sd

    state = random_state_dict(size, dtype, device, seed)
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})
    if model is None:
        raise RuntimeError("This ComfyUI does not take the random weights for a Wan 2.1 model.")
    return model


def random_context(length: int, seed: int) -> Tensor:
    """A stand-in for encoded text, `[1, length, 4096]`; the model adds nothing to a length of its own."""
    import torch

    return torch.randn(1, length, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
