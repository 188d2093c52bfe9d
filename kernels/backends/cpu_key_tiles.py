"""Attention over listed key tiles on a CPU: each tile of queries multiplies the keys that its list names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backend import AttentionOutput, Backend, Constraints
from ..key_tiles import KeyTiles
from .cpu import CPU, inner_product

RANK = 41  # after the CPU's dense backends


def attend_listed(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles
) -> AttentionOutput:
    """Compute one head after another in fp32, a tile of queries at a time; shapes as in `attend_reference`."""
    batch, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32) if need_lse else None
    orders = key_tiles.orders
    key_rows = None if orders is None else orders.keys_of_heads()
    query_rows = None if orders is None else orders.queries_of_heads().expand(batch, -1, -1)
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        one_q, one_k, one_v = (each[row, :, head] for each in (q, k, v))
        if key_rows is not None and query_rows is not None:
            one_q = one_q.index_select(0, query_rows[row, head])
            one_k, one_v = (each.index_select(0, key_rows[head]) for each in (one_k, one_v))
        tiles = _Tiles(one_k, key_tiles), _Tiles(one_v, key_tiles)
        found, sums = _attend_head(one_q.float() * scale, *tiles, row, head, need_lse)
        if query_rows is None:
            out[row, :, head] = found
        else:
            out[row, query_rows[row, head], head] = found.to(q.dtype)
        if lse is not None:
            at = slice(None) if query_rows is None else query_rows[row, head]
            lse[row, head, at] = sums
    return out, lse


class _Tiles:
    """The rows of one head `[N, D]`, by tiles, in fp32."""

    def __init__(self, rows: Tensor, key_tiles: KeyTiles):
        self.key_tiles, self._size = key_tiles, key_tiles.key_tile
        self._rows = rows.float().contiguous()
        self._whole = rows.shape[0] // self._size  # tiles; one of fewer rows may follow
        self._tiles = self._rows[: self._whole * self._size].view(self._whole, -1)

    def listed(self, numbers: Tensor) -> Tensor:
        """Return the rows `[n, D]` of some tiles, ascending; without a copy where they follow one another."""
        count = numbers.numel()
        if count == 0:
            return self._rows[:0]
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first + 1 == count:
            return self._rows[first * self._size : (last + 1) * self._size]
        if last < self._whole:
            return self._tiles.index_select(0, numbers).view(-1, self._rows.shape[1])
        whole = self._tiles.index_select(0, numbers[:-1]).view(-1, self._rows.shape[1])
        return torch.cat([whole, self._rows[last * self._size :]])


def _attend_head(q: Tensor, k: _Tiles, v: _Tiles, row: int, head: int, need_lse: bool) -> tuple[Tensor, Tensor]:
    """Return output `[M, D]` and log-sum-exp `[M]` of one head; without need_lse the latter may be anything. q: scaled.

    The log-sum-exp comes from the softmax: the largest weight of a row is exp(largest score − lse).
    """
    lists, tile, rest = k.key_tiles, k.key_tiles.query_tile, k.key_tiles.rest
    out, lse = torch.empty_like(q), torch.empty(q.shape[0])
    counts = lists.counts[row, head].tolist()
    for number, count in enumerate(counts):
        rows = slice(number * tile, min((number + 1) * tile, q.shape[0]))
        numbers = lists.tiles[row, head, number, :count]
        if count == 0:
            part, total = torch.zeros_like(q[rows]), torch.full_like(q[rows, 0], -math.inf)
        else:
            scores = inner_product(q[rows], k.listed(numbers))
            largest = scores.amax(-1) if need_lse or rest is not None else None
            weights = torch.softmax(scores, -1, out=scores)
            total = None if largest is None else largest - weights.amax(-1).log_()
            part = inner_product(weights, v.listed(numbers).t())
        if rest is not None:
            top, listed = rest.top[row, head, number], total
            total = torch.logaddexp(listed, top)
            own, others = ((term - total).exp().nan_to_num_(0.0).unsqueeze(-1) for term in (listed, top))
            part = own * part + others * rest.value[row, head, number]
        out[rows] = part
        if total is not None:
            lse[rows] = total
    return out, lse


BACKENDS = (
    Backend(
        name="cpu-key-tiles",
        what="products of listed key tiles only",
        run=attend_listed,
        constraints=Constraints(devices=CPU, key_tiles=True, any_tiles=True, dense=False),
    ),
)
