"""Attention problems for the tests of the Triton kernels, and their results in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

CASES = [  # batch, queries, keys, heads, head size: why
    (1, 64, 64, 1, 64),  # whole tiles of queries and keys
    (1, 32, 20, 1, 64),  # fewer keys than one tile
    (2, 17, 131, 3, 64),  # ragged both ways, several heads and a batch
    (1, 1, 40, 2, 128),  # one query
    (2, 70, 96, 2, 128),  # ragged queries, whole tiles of keys
    (1, 150, 300, 2, 64),  # more than one tile of keys as listed by KeyTiles, the last ragged
    (1, 40, 33, 1, 128),  # more queries than keys; one key in the last tile
]
KINDS = ("random", "peaked", "offset")


def problem(case: tuple[int, ...], dtype: torch.dtype, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Make q, k and v: `random`, with a `peaked` softmax, or with a common `offset` of all keys."""
    batch, queries, keys, heads, dim = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, n, heads, dim, generator=generator) for n in (queries, keys, keys))
    if kind == "peaked":
        q = q * 6
    if kind == "offset":
        k = k + 3.0
    return q.to(dtype), k.to(dtype), v.to(dtype)


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute out `[B, M, H, D]` and lse `[B, H, M]` in fp64. Rows with an empty mask `[B, H, M, N]` get 0 and −∞."""
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1).nan_to_num(0.0) @ v).transpose(1, 2), scores.logsumexp(-1)


def relative(out: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected output."""
    return float((out.double() - expected).norm() / expected.norm())
