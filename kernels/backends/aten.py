"""Attention kernels of torch, called by their private operators: the public function returns no log-sum-exp.

Private operators change between versions; the self-test decides whether a backend is used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..backend import FLOATS, HALF, AttentionOutput, Backend, Constraints, missing_operator

RANK = 20  # after installed packages, before the pack's own kernels
CUDA = frozenset({"cuda"})


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


def attend_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by FlashAttention 2 of torch (on AMD: AOTriton); shapes as in `attend_reference`."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    out, lse = flash(*_heads_first(q, k, v), 0.0, False, False, scale=scale)[:2]
    return out.transpose(1, 2), lse if need_lse else None


def attend_efficient(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by the memory-efficient kernel; its log-sum-exp is padded to a multiple of 32 rows."""
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    out, lse = efficient(*_heads_first(q, k, v), None, need_lse, scale=scale)[:2]
    return out.transpose(1, 2), lse[..., : q.shape[1]] if need_lse else None


def attend_cudnn(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by the kernel of cuDNN; its log-sum-exp has a trailing dimension since torch 2.9."""
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, lse = cudnn(*_heads_first(q, k, v), None, need_lse, 0.0, False, False, scale=scale)[:2]
    if not need_lse:
        return out.transpose(1, 2), None
    return out.transpose(1, 2), lse.squeeze(-1) if lse.ndim == 4 else lse


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by the public function of torch, which picks a kernel itself."""
    q, k, v = _heads_first(q, k, v)
    return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2), None


def _missing_cudnn() -> str:
    return missing_operator("_scaled_dot_product_cudnn_attention") or (
        "" if torch.backends.cudnn.is_available() else "this torch has no cuDNN"
    )


BACKENDS = (
    Backend(
        name="cudnn",
        what="cuDNN's fused attention, through torch",
        run=attend_cudnn,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), head_dim_multiple=8, max_head_dim=128, amd=False),
        unavailable_reason=_missing_cudnn,
    ),
    Backend(
        name="flash",
        what="FlashAttention 2 inside torch",
        run=attend_flash,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), head_dim_multiple=8, max_head_dim=256),
        unavailable_reason=lambda: missing_operator("_scaled_dot_product_flash_attention"),
    ),
    Backend(
        name="efficient",
        what="the memory-efficient kernel inside torch",
        run=attend_efficient,
        constraints=Constraints(CUDA, FLOATS, capability=(5, 0), head_dim_multiple=8),
        unavailable_reason=lambda: missing_operator("_scaled_dot_product_efficient_attention"),
    ),
    Backend(
        name="sdpa",
        what="torch's own choice among its kernels",
        run=attend_sdpa,
        constraints=Constraints(lse=False),
        extra_check=lambda problem: "on a CPU it is cpu-flash" if problem.device.type == "cpu" else "",
    ),
)
