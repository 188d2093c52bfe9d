"""One attention call as its tiles: sizes, orders of keys and queries, and where each tile of queries lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...kernels.key_tiles import Orders
from .layout import RowLayout
from .orders import TokenOrders


@dataclass(frozen=True)
class TileCall:
    """The sparse rows of a call, and all its keys.

    orders: of the keys; queries: int32 `[1 or B, P, M]`, the query at each place, of the M sparse ones; places: int64,
    of the same shape, the place among the keys that the query at each place has. is_full: the queries are all sparse
    rows.
    """

    layout: RowLayout
    orders: TokenOrders
    queries: Tensor
    places: Tensor
    query_tile: int
    key_tile: int
    is_full: bool = True

    @staticmethod
    def of(
        layout: RowLayout, orders: TokenOrders, query_tile: int, key_tile: int, selected: Tensor | None = None
    ) -> TileCall:
        """Describe a call. selected: the sparse rows that are queries, `[B, M]`, ascending, as keys; None: all."""
        if selected is None:
            queries = orders.keys[:, : layout.sparse] - layout.before
            places = torch.arange(layout.sparse, device=queries.device).expand_as(queries)
            return TileCall(layout, orders, queries.unsqueeze(0), places.unsqueeze(0), query_tile, key_tile)
        places, queries = torch.sort(orders.places[:, selected].transpose(0, 1), dim=-1)
        return TileCall(layout, orders, queries.to(torch.int32), places, query_tile, key_tile, is_full=False)

    @property
    def query_count(self) -> int:
        return self.queries.shape[-1]

    @property
    def query_tiles(self) -> int:
        return -(-self.query_count // self.query_tile)

    @property
    def key_tiles(self) -> int:
        return -(-self.layout.rows // self.key_tile)

    @property
    def forced(self) -> int:
        """Number of tiles, the last ones of every order, that hold other rows than the sparse ones."""
        return self.key_tiles - self.layout.sparse // self.key_tile if self.layout.sparse < self.layout.rows else 0

    def count(self, density: float) -> int:
        """Return how many tiles a tile of queries attends to at a density."""
        wanted = max(1, math.ceil(density * self.key_tiles - 1e-9))
        return min(self.key_tiles, max(wanted, self.forced + 1 if self.forced else 1))

    def shares(self, densities: Sequence[float]) -> Tensor:
        """Return the densities as whole tiles allow them, fp64."""
        return torch.tensor([self.count(density) / self.key_tiles for density in densities], dtype=torch.float64)

    @cached_property
    def centres(self) -> Tensor:
        """Mean place of each tile of queries among the keys, in key tiles: fp32 `[1 or B, P, n_q]`."""
        whole = self.query_tiles * self.query_tile
        places = torch.nn.functional.pad(self.places.float(), (0, whole - self.query_count), value=math.nan)
        return (places.unflatten(-1, (self.query_tiles, self.query_tile)).nanmean(-1) + 0.5) / self.key_tile

    def orders_of(self, of_head: Tensor, heads_in_raster: bool) -> Orders | None:
        """Return the orders of the heads for the kernels; None where tiles can be cut from the rows as they are."""
        if heads_in_raster and self.layout.sparse == self.layout.rows and self.is_full:
            return None
        return Orders(self.orders.keys, self.queries, of_head)
