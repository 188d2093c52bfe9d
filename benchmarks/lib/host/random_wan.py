"""A Wan 2.1 text-to-video MODEL of any size with random weights, made in memory and loaded by the host itself.

The host's model class lists the tensors, and the host's loader detects the model from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .harness import Job

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEAD_DIM = 128
CONTEXT = 512
TEXT_DIM = 4096


@dataclass(frozen=True)
class WanSize:
    """Free sizes of the Wan format; `dim` is a multiple of 128. The defaults are those of Wan 2.1 1.3B."""

    dim: int = 1536
    feed_forward: int = 8960
    layers: int = 30

    def label(self) -> str:
        return f"dim {self.dim}, ffn {self.feed_forward}, {self.layers} blocks, {self.dim // HEAD_DIM} heads"


SMALL = WanSize(dim=256, feed_forward=1024, layers=4)  # for trials on the CPU


def random_state_dict(size: WanSize, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """All tensors of the model: normal, scaled to keep the hidden state at its size; norms near 1, biases near 0."""
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
    """The MODEL. device: where the random numbers are generated (a GPU is faster); the host decides where it runs."""
    import comfy.sd

    state = random_state_dict(size, dtype, device, seed)
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})
    if model is None:
        raise RuntimeError("This ComfyUI does not take the random weights for a Wan 2.1 model.")
    return model


def random_context(length: int, seed: int) -> Tensor:
    """A stand-in for encoded text, `[1, length, 4096]`."""
    import torch

    return torch.randn(1, length, TEXT_DIM, generator=torch.Generator().manual_seed(seed))


def load_wan_480p(*, small: bool, seed: int) -> tuple[Any, str]:
    """Wan 2.1 1.3B in bfloat16 on the GPU, or a small float32 trial on the CPU, and its description."""
    import torch

    size, dtype = (SMALL, torch.float32) if small else (WanSize(), torch.bfloat16)
    model = load_random_wan(size, dtype, "cpu" if small else "cuda", seed)
    return model, f"Wan 2.1 format, random weights, {size.label()}"


def job_480p(frames: int, steps: int, cfg: float, *, small: bool, seed: int) -> Job:
    """A run on a 480p clip, or on one of 256 × 256 pixels for a small trial."""
    positive, negative = (random_context(CONTEXT, seed + number) for number in range(2))
    shape = (1, 16, (frames - 1) // 4 + 1, *((32, 32) if small else (60, 104)))
    return Job(shape, positive, negative, seed, steps, cfg)


def with_peak_memory(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float | None]:
    """The result of some work, and the most GPU memory that torch held meanwhile, in GiB; None on a CPU."""
    import torch

    if device.type != "cuda":
        return work(), None
    torch.cuda.reset_peak_memory_stats(device)
    return work(), gibibytes(torch.cuda.max_memory_allocated(device))


def gibibytes(bytes_: int) -> float:
    return round(bytes_ / 2**30, 3)
