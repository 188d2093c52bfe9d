"""Attention on a CPU: torch's flash kernel, and matrix products in tiles that stay in the caches.

fp16 is computed in fp32, which is faster on every CPU seen: half-precision products are emulated. The tiled products
win where one head leaves the flash kernel's threads unequal work, and in bf16 where the CPU has instructions for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Attended, Backend, Constraints

CPU = frozenset({"cpu"})
TILE_SCORES = 1 << 20  # fp32 scores of one tile: 4 MiB


def _has(operator: str) -> str:
    return "" if hasattr(torch.ops.aten, operator) else f"this torch has no {operator}"


def attend_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """torch's own flash kernel; shapes as in `attend_reference`."""
    dtype = q.dtype
    if dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
    return out.transpose(1, 2).to(dtype), lse.float() if need_lse else None


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """Products in tiles of rows, one head at a time; shapes as in `attend_reference`.

    The log-sum-exp comes from what softmax leaves: a row's largest weight is exp(largest score − lse).
    """
    batch, queries, heads, _ = q.shape
    keys = k.shape[1]
    parts = -(-queries // max(32, TILE_SCORES // keys))
    rows = -(-queries // parts)
    weights_dtype = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32) if need_lse else None
    buffer = q.new_empty((rows, keys), dtype=torch.float32)
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        scaled = q[row, :, head].float() * scale
        every, values = k[row, :, head].float().t(), v[row, :, head].to(weights_dtype)
        for start in range(0, queries, rows):
            part = scaled[start : start + rows]
            scores = torch.mm(part, every, out=buffer[: part.shape[0]])
            largest = scores.amax(-1) if need_lse else None
            weights = torch.softmax(scores, -1, out=scores)
            if lse is not None and largest is not None:
                torch.sub(largest, weights.amax(-1).log_(), out=lse[row, head, start : start + rows])
            out[row, start : start + rows, head] = torch.mm(weights.to(weights_dtype), values)
    return out, lse


BACKENDS = (
    Backend(
        name="cpu-flash",
        what="torch's flash kernel for CPUs",
        run=attend_flash,
        constraints=Constraints(devices=CPU),
        missing=lambda: _has("_scaled_dot_product_flash_attention_for_cpu"),
    ),
    Backend(
        name="cpu-tiles",
        what="matrix products in tiles that stay in a CPU's caches",
        run=attend_tiles,
        constraints=Constraints(devices=CPU),
    ),
)
