"""One attention call as its tiles: sizes, orders of keys and queries, and where each tile of queries lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.key_tiles import Orders
from .layout import RowLayout
from .orders import TokenOrders


@dataclass(frozen=True)
class TileCall:
    """The sparse rows of a call, and all its keys.

    orders: of the keys; queries: int32 `[1 or B, P, M]`, the query at each place, of the M sparse ones; centres: fp32
    `[1 or B, P, n_q]`, the mean place among the keys that a tile's queries have, in key tiles. is_full: the queries are
    all sparse rows.
    """

    layout: RowLayout
    orders: TokenOrders
    queries: Tensor
    centres: Tensor
    query_tile: int
    key_tile: int
    is_full: bool = True

    @staticmethod
    def of(
        layout: RowLayout, orders: TokenOrders, query_tile: int, key_tile: int, selected: Tensor | None = None
    ) -> TileCall:
        """Describe a call. selected: the sparse rows that are queries, `[B, M]`, ascending, as keys; None: all."""
        if selected is None:
            queries = (orders.keys[:, : layout.sparse] - layout.before).unsqueeze(0)
            places = torch.arange(layout.sparse, device=queries.device).expand_as(queries)
        else:
            places, queries = torch.sort(orders.places[:, selected].transpose(0, 1), dim=-1)
        centres = (_means(places.float(), query_tile) + 0.5) / key_tile
        tiles = (query_tile, key_tile)
        return TileCall(layout, orders, queries.to(torch.int32), centres, *tiles, is_full=selected is None)

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
        """Return how many tiles a tile of queries attends to at a density: the forced ones, and a share of the rest."""
        free = self.key_tiles - self.forced
        return self.forced + min(free, max(1, math.ceil(density * free - 1e-9)))

    def shares(self, densities: Sequence[float]) -> Tensor:
        """Return the densities as whole tiles allow them, fp64."""
        return torch.tensor([self.count(density) / self.key_tiles for density in densities], dtype=torch.float64)

    def orders_of(self, of_head: Tensor, heads_in_raster: bool) -> Orders | None:
        """Return the orders of the heads for the kernels; None where tiles can be cut from the rows as they are."""
        if heads_in_raster and self.layout.sparse == self.layout.rows and self.is_full:
            return None
        return Orders(self.orders.keys, self.queries, of_head)


def _means(places: Tensor, tile: int) -> Tensor:
    """Return the mean of each tile of places `[.., M]`; the last tile may hold fewer."""
    beyond = -places.shape[-1] % tile
    return torch.nn.functional.pad(places, (0, beyond), value=math.nan).unflatten(-1, (-1, tile)).nanmean(-1)
