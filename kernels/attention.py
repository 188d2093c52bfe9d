"""Attention of selected queries over all keys, with the log-sum-exp where it is asked for.

`attend_reference` defines the result. On a CPU torch's own flash kernel serves, elsewhere the reference in chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_SCORES = 1 << 26  # scores held at once by the reference


def attend_reference(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √D) v in fp32, chunked over queries.

    q `[B, M, H, D]`, k and v `[B, N, H, D]`; returns out `[B, M, H, D]` in q's dtype and the natural log-sum-exp of
    the scores, fp32 `[B, H, M]`.
    """
    batch, queries, heads, dim = q.shape
    keys, values = k.permute(0, 2, 3, 1).float(), v.transpose(1, 2).float()
    chunk = max(1, CHUNK_SCORES // max(1, batch * heads * k.shape[1]))
    outs, sums = [], []
    for start in range(0, queries, chunk):
        scores = (q[:, start : start + chunk].transpose(1, 2).float() * dim**-0.5) @ keys
        total = torch.logsumexp(scores, dim=-1)
        outs.append((scores.sub_(total.unsqueeze(-1)).exp_() @ values).transpose(1, 2).to(q.dtype))
        sums.append(total)
    return torch.cat(outs, dim=1), torch.cat(sums, dim=2)


def _attend_cpu_flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(*(t.transpose(1, 2) for t in (q, k, v)))
    return out.transpose(1, 2), lse.float()


_cpu_flash_agrees: bool | None = None


def _can_use_cpu_flash() -> bool:
    """Once per process: compare output and log-sum-exp with the reference on queries fewer than keys."""
    global _cpu_flash_agrees
    if _cpu_flash_agrees is None:
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, n, 2, 64, generator=generator) for n in (24, 56, 56))
        try:
            pairs = zip(_attend_cpu_flash(q, k + 1.0, v), attend_reference(q, k + 1.0, v), strict=True)
            _cpu_flash_agrees = all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
        except (AttributeError, RuntimeError, NotImplementedError):
            _cpu_flash_agrees = False  # a private operator: another torch may not have it
    return _cpu_flash_agrees


def attend(q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """Attention of M queries over N keys, M ≤ N; shapes as in `attend_reference`, lse None unless asked for."""
    if not need_lse:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2), None
    if q.device.type == "cpu" and _can_use_cpu_flash():
        return _attend_cpu_flash(q, k, v)
    return attend_reference(q, k, v)
