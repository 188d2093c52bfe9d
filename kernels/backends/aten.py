"""Attention kernels that torch brings, called one by one for their log-sum-exp, which the public function hides.

The operators are private and change between versions: a self-test decides whether one is used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..backend import FLOATS, HALF, Attended, Backend, Constraints

CUDA = frozenset({"cuda"})


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


def attend_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """FlashAttention 2 inside torch (on AMD: AOTriton)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    out, lse = flash(*_heads_first(q, k, v), 0.0, False, False, scale=scale)[:2]
    return out.transpose(1, 2), lse if need_lse else None


def attend_efficient(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """The memory-efficient kernel; it pads the log-sum-exp to a multiple of 32 rows."""
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    out, lse = efficient(*_heads_first(q, k, v), None, need_lse, scale=scale)[:2]
    return out.transpose(1, 2), lse[..., : q.shape[1]] if need_lse else None


def attend_cudnn(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """cuDNN's kernel; its log-sum-exp has a trailing dimension since torch 2.9."""
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, lse = cudnn(*_heads_first(q, k, v), None, need_lse, 0.0, False, False, scale=scale)[:2]
    if not need_lse:
        return out.transpose(1, 2), None
    return out.transpose(1, 2), lse.squeeze(-1) if lse.ndim == 4 else lse


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """torch's public function, which picks a kernel itself."""
    q, k, v = _heads_first(q, k, v)
    return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2), None


def _has(operator: str) -> str:
    return "" if hasattr(torch.ops.aten, operator) else f"this torch has no {operator}"


def _no_cudnn() -> str:
    return _has("_scaled_dot_product_cudnn_attention") or (
        "" if torch.backends.cudnn.is_available() else "this torch has no cuDNN"
    )


BACKENDS = (
    Backend(
        name="cudnn",
        what="cuDNN's fused attention, through torch",
        run=attend_cudnn,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), head_dim_multiple=8, max_head_dim=128, amd=False),
        unavailable_reason=_no_cudnn,
    ),
    Backend(
        name="flash",
        what="FlashAttention 2 inside torch",
        run=attend_flash,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), head_dim_multiple=8, max_head_dim=256),
        unavailable_reason=lambda: _has("_scaled_dot_product_flash_attention"),
    ),
    Backend(
        name="efficient",
        what="the memory-efficient kernel inside torch",
        run=attend_efficient,
        constraints=Constraints(CUDA, FLOATS, capability=(5, 0), head_dim_multiple=8),
        unavailable_reason=lambda: _has("_scaled_dot_product_efficient_attention"),
    ),
    Backend(
        name="sdpa",
        what="torch's own choice among its kernels",
        run=attend_sdpa,
        constraints=Constraints(lse=False),
        extra_check=lambda problem: "on a CPU it is cpu-flash" if problem.device.type == "cpu" else "",
    ),
)
