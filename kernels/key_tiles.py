"""Block sparsity over keys: lists of the key tiles that each tile of queries attends to, in an order of the head's.

It combines with selected queries: query tiles count the selected rows, key tiles the tokens of the whole video.
Nothing here decides which tiles matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_TILE = 128
KEY_TILE = 64


@dataclass(frozen=True)
class Orders:
    """Orders of tokens, from which tiles are cut: tile j holds the tokens at places 64 j to 64 j + 63.

    keys: int32 `[P, N]`, the key at each place; queries: int32 `[1 or B, P, M]`, the query row at each place;
    of_head: int32 `[H]`, the order that a head takes. Each is a permutation; the output's rows stay where they were.
    """

    keys: Tensor
    queries: Tensor
    of_head: Tensor

    def keys_of_heads(self) -> Tensor:
        """Return the key at each place for each head, int64 `[H, N]`."""
        return self.keys[self.of_head.long()].long()

    def queries_of_heads(self) -> Tensor:
        """Return the query row at each place for each head, int64 `[1 or B, H, M]`."""
        return self.queries[:, self.of_head.long()].long()


@dataclass(frozen=True)
class Rest:
    """One term for all key tiles that a tile of queries does not attend to.

    top: fp32 `[B, H, ceil(M / 128)]`, the term's score, natural logarithm; −∞: no term. value: fp32
    `[B, H, ceil(M / 128), D]`. The softmax of a query takes it for one more key of this score and this value.
    """

    top: Tensor
    value: Tensor


@dataclass(frozen=True)
class KeyTiles:
    """Key tiles for each tile of queries.

    counts: int32 `[B, H, ceil(M / 128)]`, number of tiles of 64 keys that a tile of 128 queries attends to.
    tiles: int32 `[B, H, ceil(M / 128), L]`, numbers of those tiles, ascending; entries from `counts` on are ignored.
    A tile of queries without key tiles gets zeros and a log-sum-exp of −∞, or its term of the rest.
    orders: None: tiles are cut from the rows as they are. query_tile, key_tile: other sizes, powers of two, for models
    of few tokens; the reference and the CPU's backend take them.
    """

    counts: Tensor
    tiles: Tensor
    orders: Orders | None = None
    rest: Rest | None = None
    query_tile: int = QUERY_TILE
    key_tile: int = KEY_TILE

    @staticmethod
    def from_mask(mask: Tensor) -> KeyTiles:
        """List the tiles of a bool mask `[B, H, ceil(M / 128), ceil(N / 64)]`."""
        # A stable sort of the inverted mask puts wanted numbers first, ascending.
        order = torch.sort((~mask).to(torch.int8), dim=-1, stable=True).indices
        return KeyTiles(mask.sum(-1, dtype=torch.int32), order.to(torch.int32).contiguous())

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return all tensors, for operators that take nothing else: see `from_tensors`."""
        orders = (None,) * 3 if self.orders is None else (self.orders.keys, self.orders.queries, self.orders.of_head)
        rest = (None,) * 2 if self.rest is None else (self.rest.top, self.rest.value)
        return (self.counts, self.tiles, *orders, *rest)

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> KeyTiles | None:
        """Return the lists of `tensors()`, with the sizes of a query tile and a key tile; None without any."""
        counts, tiles, keys, queries, of_head, top, value = tensors
        if counts is None or tiles is None:
            return None
        orders = None if keys is None or queries is None or of_head is None else Orders(keys, queries, of_head)
        rest = None if top is None or value is None else Rest(top, value)
        return KeyTiles(counts, tiles, orders, rest, sizes[0], sizes[1])

    @property
    def has_usual_sizes(self) -> bool:
        return self.query_tile == QUERY_TILE and self.key_tile == KEY_TILE

    def tile_mask(self, keys: int) -> Tensor:
        """Return the mask of pairs of tiles, bool `[B, H, ceil(M / 128), ceil(N / 64)]`."""
        length = self.tiles.shape[-1]
        listed = torch.arange(length, device=self.tiles.device) < self.counts.unsqueeze(-1)
        columns = -(-keys // self.key_tile)
        wanted = torch.zeros(*self.counts.shape, columns + 1, dtype=torch.bool, device=self.tiles.device)
        # Entries that are not listed go to an extra column, which is cut off.
        wanted.scatter_(-1, torch.where(listed, self.tiles, columns).long(), True)
        return wanted[..., :columns]

    def mask(self, queries: int, keys: int) -> Tensor:
        """Return the mask of all pairs in the heads' orders, bool `[B, H, M, N]`: true where a query attends to a key.

        Row i and column j are the tokens at places i and j, see `Orders`.
        """
        rows = self.tile_mask(keys).repeat_interleave(self.query_tile, dim=2)[:, :, :queries]
        return rows.repeat_interleave(self.key_tile, dim=3)[..., :keys]

    def token_mask(self, queries: int, keys: int) -> Tensor:
        """Return the mask of all pairs of tokens, bool `[B, H, M, N]`, whatever the heads' orders."""
        mask = self.mask(queries, keys)
        if self.orders is None:
            return mask
        rows = self.orders.queries_of_heads().expand(mask.shape[0], -1, -1).unsqueeze(-1).expand_as(mask)
        columns = self.orders.keys_of_heads().unsqueeze(1).expand_as(mask)
        mask = torch.empty_like(mask).scatter_(2, rows, mask)
        return torch.empty_like(mask).scatter_(3, columns, mask)

    def rest_of_queries(self, queries: int) -> tuple[Tensor, Tensor]:
        """Return the term of the rest for each query, whatever the heads' orders: `[B, H, M]` and `[B, H, M, D]`."""
        assert self.rest is not None
        top, value = (
            each.repeat_interleave(self.query_tile, dim=2)[:, :, :queries] for each in (self.rest.top, self.rest.value)
        )
        if self.orders is None:
            return top, value
        rows = self.orders.queries_of_heads().expand(top.shape[0], -1, -1)
        at = rows.unsqueeze(-1).expand_as(value)
        return torch.empty_like(top).scatter_(2, rows, top), torch.empty_like(value).scatter_(2, at, value)
