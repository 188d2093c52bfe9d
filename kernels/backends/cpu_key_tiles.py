"""Attention over listed key tiles on a CPU: each tile of queries multiplies the keys that its list names."""

from __future__ import annotations

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
        one_q, one_k, one_v = (each[row, :, head].float() for each in (q, k, v))
        if key_rows is not None and query_rows is not None:
            one_q = one_q[query_rows[row, head]]
            one_k, one_v = one_k[key_rows[head]], one_v[key_rows[head]]
        found, sums = _attend_head(one_q * scale, _Tiles(one_k, key_tiles), _Tiles(one_v, key_tiles), row, head)
        if query_rows is None:
            out[row, :, head] = found
        else:
            out[row, query_rows[row, head], head] = found.to(q.dtype)
        if lse is not None:
            at = slice(None) if query_rows is None else query_rows[row, head]
            lse[row, head, at] = sums
    return out, lse


class _Tiles:
    """The rows of one head `[N, D]`, by tiles."""

    def __init__(self, rows: Tensor, key_tiles: KeyTiles):
        self.key_tiles, self.dim, size = key_tiles, rows.shape[-1], key_tiles.key_tile
        self.beyond = -rows.shape[0] % size  # places of the last tile that hold no row
        padded = torch.nn.functional.pad(rows, (0, 0, 0, self.beyond)) if self.beyond else rows.contiguous()
        self._tiles = padded.view(-1, size * self.dim)

    def listed(self, numbers: Tensor) -> Tensor:
        """Return the rows `[n, D]` of some tiles, ascending."""
        rows = self._tiles.index_select(0, numbers).view(-1, self.dim)
        if self.beyond and numbers.numel() and int(numbers[-1]) == self._tiles.shape[0] - 1:
            rows = rows[: -self.beyond]
        return rows


def _attend_head(q: Tensor, k: _Tiles, v: _Tiles, row: int, head: int) -> tuple[Tensor, Tensor]:
    """Return output `[M, D]` and log-sum-exp `[M]` of one head. q: scaled."""
    lists, tile = k.key_tiles, k.key_tiles.query_tile
    out, lse = torch.empty_like(q), torch.empty(q.shape[0])
    counts = lists.counts[row, head].tolist()
    for number, count in enumerate(counts):
        rows = slice(number * tile, min((number + 1) * tile, q.shape[0]))
        numbers = lists.tiles[row, head, number, :count]
        scores = inner_product(q[rows], k.listed(numbers))
        total = torch.logsumexp(scores, -1)
        if lists.rest is not None:
            total = torch.logaddexp(total, lists.rest.top[row, head, number])
        present = total.isfinite().unsqueeze(-1) if count == 0 else None
        weights = scores.sub_(total.unsqueeze(-1)).exp_()
        part = inner_product(weights, v.listed(numbers).t())
        if lists.rest is not None:
            share = (lists.rest.top[row, head, number] - total).exp().nan_to_num_(0.0)
            part = part + share.unsqueeze(-1) * lists.rest.value[row, head, number]
        out[rows], lse[rows] = (part if present is None else part.where(present, 0.0)), total
    return out, lse


BACKENDS = (
    Backend(
        name="cpu-key-tiles",
        what="products of listed key tiles only",
        run=attend_listed,
        constraints=Constraints(devices=CPU, key_tiles=True, any_tiles=True, dense=False),
    ),
)
