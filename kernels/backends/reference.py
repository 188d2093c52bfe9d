"""Reference: attention of selected queries over all keys in fp32, in plain torch, on any device.

Exact backends agree with double precision up to a relative error of 1e-3 in fp16, 8e-3 in bf16, 1e-5 in fp32, and
2e-3 absolute in the log-sum-exp.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backend import FLOATS, AttentionOutput, Backend, Constraints
from ..key_tiles import QUERY_TILE, KeyTiles

RANK = 90  # last: used where no other backend can be
CHUNK_SCORES = 1 << 26  # scores held at once


def attend_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    need_lse: bool = True,
    key_tiles: KeyTiles | None = None,
    mask: Tensor | None = None,
) -> AttentionOutput:
    """Compute softmax(scale · q kᵀ) v in fp32, in chunks of queries.

    q `[B, M, H, D]`, k and v `[B, N, H, D]`, scale 1 / √D by default. Returns out `[B, M, H, D]` in q's dtype and, with
    need_lse, the natural log-sum-exp of the scaled scores, fp32 `[B, H, M]`. A query without keys gets zeros and −∞.
    mask: `[1 or B, 1 or M, N]`, true for keys that count, or numbers that are added to the scores.
    """
    batch, queries, heads, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    keys, values = k.permute(0, 2, 3, 1).float(), v.transpose(1, 2).float()
    chunk = max(1, CHUNK_SCORES // max(1, batch * heads * k.shape[1]))
    if key_tiles is not None:
        chunk = math.ceil(chunk / QUERY_TILE) * QUERY_TILE
    outs, sums = [], []
    for start in range(0, queries, chunk):
        part = q[:, start : start + chunk]
        scores = (part.transpose(1, 2).float() * scale) @ keys
        if key_tiles is not None:
            first, last = start // QUERY_TILE, math.ceil((start + chunk) / QUERY_TILE)
            tiles = KeyTiles(key_tiles.counts[:, :, first:last], key_tiles.tiles[:, :, first:last])
            scores.masked_fill_(~tiles.mask(part.shape[1], k.shape[1]), -math.inf)
        if mask is not None:
            _apply(mask if mask.shape[1] == 1 else mask[:, start : start + chunk], scores)
        total = torch.logsumexp(scores, dim=-1)
        weights = scores.sub_(total.unsqueeze(-1)).exp_()
        if key_tiles is not None or mask is not None:
            weights.nan_to_num_(0.0)  # −∞ − −∞ in rows without keys
        outs.append((weights @ values).transpose(1, 2).to(q.dtype))
        sums.append(total)
    return torch.cat(outs, dim=1), torch.cat(sums, dim=2) if need_lse else None


def _apply(mask: Tensor, scores: Tensor) -> None:
    """Apply a mask `[1 or B, 1 or M, N]` to the scores `[B, H, M, N]`, in place."""
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask.unsqueeze(1), -math.inf)
    else:
        scores.add_(mask.unsqueeze(1))


BACKEND = Backend(
    name="reference",
    what="plain torch in fp32, in chunks of queries",
    run=attend_reference,
    constraints=Constraints(dtypes=FLOATS | {torch.float64}, key_tiles=True),
    last_resort=True,
)
BACKENDS = (BACKEND,)
