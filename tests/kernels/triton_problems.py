"""Attention problems for the tests of the Triton kernels, and their results in double precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE, KeyTiles, Orders, Rest

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


def poisoned(tensor: Tensor) -> Tensor:
    """Return the tensor `[B, N, H, D]` as a part of a greater one, which is NaN elsewhere."""
    batch, rows, heads, dim = tensor.shape
    storage = torch.full((batch + 2, rows + 256, heads, dim), float("nan"), dtype=tensor.dtype)
    return storage[1:-1, 128:-128].copy_(tensor)


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute out `[B, M, H, D]` and lse `[B, H, M]` in fp64. Rows with an empty mask `[B, H, M, N]` get 0 and −∞."""
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1).nan_to_num(0.0) @ v).transpose(1, 2), scores.logsumexp(-1)


def exact_listed(q: Tensor, k: Tensor, v: Tensor, lists: KeyTiles) -> tuple[Tensor, Tensor]:
    """Compute `exact` over listed tiles, in their orders, with their rest as one more key."""
    out, lse = exact(q, k, v, lists.token_mask(q.shape[1], k.shape[1]))
    if lists.rest is None:
        return out, lse
    top, value = (
        each.double().repeat_interleave(QUERY_TILE, dim=2)[:, :, : q.shape[1]]
        for each in (lists.rest.top, lists.rest.value)
    )
    if lists.orders is not None:  # from places to rows
        rows = lists.orders.queries_of_heads().expand_as(top)
        top = torch.empty_like(top).scatter_(2, rows, top)
        value = torch.empty_like(value).scatter_(2, rows.unsqueeze(-1).expand_as(value), value)
    total = torch.logaddexp(lse, top)
    own, other = ((score - total).exp().nan_to_num(0.0).transpose(1, 2).unsqueeze(-1) for score in (lse, top))
    return own * out + other * value.transpose(1, 2), total


def listed(case: tuple[int, ...], density: tuple[float, ...], orders: int = 0, rest: bool = False) -> KeyTiles:
    """Make random lists: density is that of each head, repeated. orders: how many; the first is that of the rows."""
    batch, queries, keys, heads, dim = case
    generator = torch.Generator().manual_seed(1)
    columns, rows = -(-keys // KEY_TILE), -(-queries // QUERY_TILE)
    numbers = torch.rand(batch, heads, rows, columns, generator=generator).argsort(-1).argsort(-1)
    counts = torch.tensor([max(1, round(density[head % len(density)] * columns)) for head in range(heads)])
    lists = KeyTiles.from_mask(numbers < counts.view(-1, 1, 1))
    if orders:
        orders_of_tokens = Orders(
            _orders(orders, keys, generator),
            torch.stack([_orders(orders, queries, generator) for _ in range(batch)]),
            (torch.arange(heads) % orders).to(torch.int32),
        )
        lists = replace(lists, orders=orders_of_tokens)
    if rest:
        top = torch.randn(batch, heads, rows, generator=generator) + 4.0
        lists = replace(lists, rest=Rest(top, torch.randn(*top.shape, dim, generator=generator)))
    return lists


def _orders(count: int, length: int, generator: torch.Generator) -> Tensor:
    others = [torch.randperm(length, generator=generator) for _ in range(count - 1)]
    return torch.stack([torch.arange(length), *others]).to(torch.int32)


def relative(out: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected output."""
    return float((out.double() - expected).norm() / expected.norm())
