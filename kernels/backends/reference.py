"""Reference: attention of selected queries over all keys in fp32, in plain torch, on any device.

Exact backends agree with double precision up to a relative error of 1e-3 in fp16, 8e-3 in bf16, 1e-5 in fp32, and
2e-3 absolute in the log-sum-exp.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..backend import FLOATS, AttentionOutput, Backend, Constraints
from ..key_tiles import KeyTiles, Rest

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
    mask: `[1 or B, 1 or M, N]`, true for keys that count, or numbers that are added to the scores; not with key_tiles.
    """
    if key_tiles is not None and key_tiles.orders is not None:
        return _attend_in_orders(q, k, v, scale, need_lse, key_tiles)
    batch, queries, heads, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    keys, values = k.permute(0, 2, 3, 1).float(), v.transpose(1, 2).float()
    chunk = max(1, CHUNK_SCORES // max(1, batch * heads * k.shape[1]))
    if key_tiles is not None:
        chunk = math.ceil(chunk / key_tiles.query_tile) * key_tiles.query_tile
    outs, sums = [], []
    for start in range(0, queries, chunk):
        part = q[:, start : start + chunk]
        scores = (part.transpose(1, 2).float() * scale) @ keys
        if key_tiles is not None:
            first = start // key_tiles.query_tile
            tiles = _query_tiles(key_tiles, slice(first, first + math.ceil(chunk / key_tiles.query_tile)))
            scores.masked_fill_(~tiles.mask(part.shape[1], k.shape[1]), -math.inf)
        if mask is not None:
            _apply(mask if mask.shape[1] == 1 else mask[:, start : start + chunk], scores)
        total = torch.logsumexp(scores, dim=-1)
        rest = None if key_tiles is None or tiles.rest is None else tiles.rest_of_queries(part.shape[1])
        if rest is not None:
            total = torch.logaddexp(total, rest[0])
        weights = scores.sub_(total.unsqueeze(-1)).exp_()
        if key_tiles is not None or mask is not None:
            weights.nan_to_num_(0.0)  # −∞ − −∞ in rows without keys
        out = weights @ values
        if rest is not None:
            out += (rest[0] - total).exp().nan_to_num(0.0).unsqueeze(-1) * rest[1]
        outs.append(out.transpose(1, 2).to(q.dtype))
        sums.append(total)
    return torch.cat(outs, dim=1), torch.cat(sums, dim=2) if need_lse else None


def _query_tiles(key_tiles: KeyTiles, part: slice) -> KeyTiles:
    """Return the lists of some tiles of queries."""
    rest = key_tiles.rest
    if rest is not None:
        rest = Rest(rest.top[:, :, part], rest.value[:, :, part])
    return replace(key_tiles, counts=key_tiles.counts[:, :, part], tiles=key_tiles.tiles[:, :, part], rest=rest)


def _attend_in_orders(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, need_lse: bool, key_tiles: KeyTiles
) -> AttentionOutput:
    """Attend with rows in the order of each head, and put the output's rows back where they were."""
    assert key_tiles.orders is not None
    keys = key_tiles.orders.keys_of_heads().expand(k.shape[0], -1, -1).transpose(1, 2).unsqueeze(-1)
    queries = key_tiles.orders.queries_of_heads().expand(q.shape[0], -1, -1).transpose(1, 2).unsqueeze(-1)
    q, k, v = q.take_along_dim(queries, 1), k.take_along_dim(keys, 1), v.take_along_dim(keys, 1)
    plain = replace(key_tiles, orders=None)
    out, lse = attend_reference(q, k, v, scale=scale, need_lse=need_lse, key_tiles=plain)
    out = torch.empty_like(out).scatter_(1, queries.expand_as(out), out)
    if lse is not None:
        lse = torch.empty_like(lse).scatter_(2, queries.squeeze(-1).transpose(1, 2), lse)
    return out, lse


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
    constraints=Constraints(dtypes=FLOATS | {torch.float64}, key_tiles=True, any_tiles=True),
    last_resort=True,
)
BACKENDS = (BACKEND,)
