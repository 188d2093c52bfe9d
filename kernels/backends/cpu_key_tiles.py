"""Attention over listed key tiles on a CPU: each tile of queries multiplies the keys that its list names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backend import AttentionOutput, Backend, Constraints
from ..key_tiles import KeyTiles, Rest
from .cpu import CPU, inner_product

RANK = 41  # after the CPU's dense backends


def attend_listed(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles
) -> AttentionOutput:
    """Compute one head after another in fp32, a tile of queries at a time; shapes as in `attend_reference`."""
    batch, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32) if need_lse else None
    orders, size = key_tiles.orders, key_tiles.query_tile
    key_rows = None if orders is None else orders.keys_of_heads()
    query_rows = None if orders is None else orders.queries_of_heads().expand(batch, -1, -1)
    buffer = torch.empty(k.shape[1], k.shape[3])
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        one_k, one_v = (each[row, :, head] for each in (k, v))
        if key_rows is not None:
            one_k, one_v = (each.index_select(0, key_rows[head]) for each in (one_k, one_v))
        # Keys and values share a buffer: it stays in the CPU's cache, and the keys are read before the values come.
        keys, values = (_Tiles(each, key_tiles.key_tile, buffer) for each in (one_k, one_v))
        places = torch.arange(queries) if query_rows is None else query_rows[row, head]
        lists = _lists_of(key_tiles, row, head)
        for number, (at, listed) in enumerate(zip(places.split(size), lists, strict=True)):
            rest = None if key_tiles.rest is None else _rest_of(key_tiles.rest, row, head, number)
            one_q = q[row, :, head].index_select(0, at).float().mul_(scale)
            part, total = _attend_tile(one_q, keys, values, listed, rest, need_lse)
            out[row, :, head].index_copy_(0, at, part.to(q.dtype))
            if lse is not None and total is not None:
                lse[row, head].index_copy_(0, at, total)
    return out, lse


def _lists_of(key_tiles: KeyTiles, row: int, head: int) -> list[list[int]]:
    """Return the numbers of key tiles that each tile of queries of a head attends to."""
    counts, tiles = key_tiles.counts[row, head].tolist(), key_tiles.tiles[row, head].tolist()
    return [numbers[:count] for numbers, count in zip(tiles, counts, strict=True)]


def _rest_of(rest: Rest, row: int, head: int, number: int) -> tuple[Tensor, Tensor]:
    """Return score `[]` and value `[D]` of the term that a tile of queries has for the rest."""
    return rest.top[row, head, number], rest.value[row, head, number]


class _Tiles:
    """The rows of one head `[N, D]`, by tiles of `size`, in fp32. buffer: of their shape, for copies."""

    def __init__(self, rows: Tensor, size: int, buffer: Tensor):
        self._size, self._buffer = size, buffer
        self._rows = rows.float().contiguous()
        self._whole = rows.shape[0] // size  # tiles; one of fewer rows may follow

    def listed(self, numbers: list[int]) -> Tensor:
        """Return the rows `[n, D]` of some tiles, ascending: where they do not follow one another, in the buffer."""
        size, last = self._size, numbers[-1]
        if last - numbers[0] + 1 == len(numbers):
            return self._rows[numbers[0] * size : (last + 1) * size]
        whole = numbers if last < self._whole else numbers[:-1]
        tiles = self._rows[: self._whole * size].view(self._whole, -1)
        copied = self._buffer[: len(whole) * size]
        torch.index_select(tiles, 0, torch.tensor(whole), out=copied.view(len(whole), -1))
        if len(whole) == len(numbers):
            return copied
        beyond = self._rows[last * size :]
        copied = self._buffer[: len(copied) + len(beyond)]
        copied[-len(beyond) :] = beyond
        return copied


def _attend_tile(
    q: Tensor, keys: _Tiles, values: _Tiles, listed: list[int], rest: tuple[Tensor, Tensor] | None, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Return output `[m, D]` and log-sum-exp `[m]` of one tile of queries; the latter where it is needed. q: scaled.

    The log-sum-exp comes from the softmax: the largest weight of a row is exp(largest score − lse).
    """
    total = None
    if listed:
        scores = inner_product(q, keys.listed(listed))
        largest = scores.amax(-1) if need_lse or rest is not None else None
        weights = torch.softmax(scores, -1, out=scores)
        total = None if largest is None else largest - weights.amax(-1).log_()
        part = inner_product(weights, values.listed(listed).t())
    else:
        part, total = torch.zeros_like(q), q.new_full(q.shape[:1], -math.inf)
    if rest is not None and total is not None:
        (top, value), own = rest, total
        total = torch.logaddexp(own, top)
        shares = [(term - total).exp().nan_to_num_(0.0).unsqueeze(-1) for term in (own, top)]
        part = shares[0] * part + shares[1] * value
    return part, total


BACKENDS = (
    Backend(
        name="cpu-key-tiles",
        what="products of listed key tiles only",
        run=attend_listed,
        constraints=Constraints(devices=CPU, key_tiles=True, any_tiles=True, dense=False),
    ),
)
