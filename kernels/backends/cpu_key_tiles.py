"""Attention over listed key tiles on a CPU: each tile of queries multiplies the keys that its list names.

Tiles that do not follow one another are copied first, a tenth to a sixth of the time: on a CPU lists cost more than
their share of a list of all tiles.
"""

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
    batch, queries, heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32) if need_lse else None
    orders = key_tiles.orders
    key_rows = None if orders is None else orders.keys_of_heads()
    query_rows = None if orders is None else orders.queries_of_heads().expand(batch, -1, -1)
    buffer, found, sums = torch.empty(k.shape[1], dim), torch.empty(queries, dim), torch.empty(queries)
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        at: Tensor | slice = slice(None) if query_rows is None else query_rows[row, head]
        one_q, one_k, one_v = (each[row, :, head] for each in (q, k, v))
        if isinstance(at, Tensor) and key_rows is not None:
            one_q = one_q.index_select(0, at)
            one_k, one_v = (each.index_select(0, key_rows[head]) for each in (one_k, one_v))
        # Keys and values share a buffer: it stays in the CPU's cache, and the keys are read before the values come.
        keys, values = (_Tiles(each, key_tiles.key_tile, buffer) for each in (one_k, one_v))
        _attend_head(one_q.float() * scale, keys, values, _HeadLists(key_tiles, row, head), found, sums, need_lse)
        if isinstance(at, Tensor):
            out[row, :, head].index_copy_(0, at, found.to(q.dtype))
        else:
            out[row, :, head] = found
        if lse is not None:
            lse[row, head, at] = sums
    return out, lse


class _HeadLists:
    """The lists of one head: of each tile of queries the key tiles, and the term for the rest."""

    def __init__(self, key_tiles: KeyTiles, row: int, head: int):
        self.query_tile = key_tiles.query_tile
        self.counts, tiles = key_tiles.counts[row, head].tolist(), key_tiles.tiles[row, head]
        self.lists = [numbers[:count] for numbers, count in zip(tiles.unbind(), self.counts, strict=True)]
        self.first, self.last = self._at([0] * len(self.counts), tiles), self._at([c - 1 for c in self.counts], tiles)
        rest = key_tiles.rest
        self.rest = None if rest is None else (rest.top[row, head], rest.value[row, head])

    @staticmethod
    def _at(places: list[int], tiles: Tensor) -> list[int]:
        """Return the number at one place of each list; of an empty list anything."""
        index = torch.tensor(places).clamp_(min=0).unsqueeze(-1)
        return tiles.gather(1, index).flatten().tolist() if tiles.shape[1] else places


class _Tiles:
    """The rows of one head `[N, D]`, by tiles of `size`, in fp32. buffer: of their shape, for copies."""

    def __init__(self, rows: Tensor, size: int, buffer: Tensor):
        self._size, self._buffer, self._rows = size, buffer, rows.float().contiguous()
        self._whole = rows.shape[0] // size  # tiles; one of fewer rows may follow
        self._tiles = self._rows[: self._whole * size].view(self._whole, size * rows.shape[1])

    def listed(self, numbers: Tensor, first: int, last: int) -> Tensor:
        """Return the rows `[n, D]` of tiles, `first` to `last`: where they do not follow one another, in the buffer."""
        size, count = self._size, len(numbers)
        if last - first + 1 == count:
            return self._rows[first * size : (last + 1) * size]
        whole = count if last < self._whole else count - 1
        copied = self._buffer[: whole * size]
        torch.index_select(self._tiles, 0, numbers[:whole], out=copied.view(whole, -1))
        if whole == count:
            return copied
        beyond = self._rows[last * size :]
        self._buffer[whole * size : whole * size + len(beyond)] = beyond
        return self._buffer[: whole * size + len(beyond)]


def _attend_head(
    q: Tensor, keys: _Tiles, values: _Tiles, lists: _HeadLists, out: Tensor, lse: Tensor, need_lse: bool
) -> None:
    """Write output `[M, D]` and, where it is needed, log-sum-exp `[M]` of one head. q: scaled.

    The log-sum-exp comes from the softmax: the largest weight of a row is exp(largest score − lse).
    """
    size = lists.query_tile
    for number, count in enumerate(lists.counts):
        rows = slice(number * size, min((number + 1) * size, q.shape[0]))
        total = None
        if count:
            listed = lists.lists[number], lists.first[number], lists.last[number]
            scores = inner_product(q[rows], keys.listed(*listed))
            largest = scores.amax(-1) if need_lse or lists.rest is not None else None
            weights = torch.softmax(scores, -1, out=scores)
            total = None if largest is None else largest - weights.amax(-1).log_()
            part = inner_product(weights, values.listed(*listed).t())
        else:
            part, total = torch.zeros_like(q[rows]), torch.full_like(lse[rows], -math.inf)
        if lists.rest is not None and total is not None:
            (top, value), own = (each[number] for each in lists.rest), total
            total = torch.logaddexp(own, top)
            shares = [(term - total).exp().nan_to_num_(0.0).unsqueeze(-1) for term in (own, top)]
            part = shares[0] * part + shares[1] * value
        out[rows] = part
        if total is not None:
            lse[rows] = total


BACKENDS = (
    Backend(
        name="cpu-key-tiles",
        what="products of listed key tiles only",
        run=attend_listed,
        constraints=Constraints(devices=CPU, key_tiles=True, any_tiles=True, dense=False),
    ),
)
