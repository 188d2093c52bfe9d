"""Ways to find a head's key tiles, and the lists that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.key_tiles import KeyTiles, Rest
from ...kernels.routing import rest_of, select_tiles, tile_means, tile_scores
from ...kernels.routing_reference import UNLISTED
from .call import TileCall
from .orders import CUBES, PLACE, RASTER, SPREAD

ROUTED, NEAR, EVEN = "routed", "near", "even"


@dataclass(frozen=True)
class Candidate:
    """A way to find tiles. order: that tiles are cut from.

    kind: `routed` by the means of tiles; `near`, the tiles nearest in the order; `even`, the first tiles of `spread`,
    the same for every query.
    """

    name: str
    order: str
    kind: str


ROUTING = Candidate("tile means", RASTER, ROUTED)
SPATIAL = Candidate("near frames", RASTER, NEAR)
TEMPORAL = Candidate("same place", PLACE, NEAR)
TEXTURAL = Candidate("even subset", SPREAD, EVEN)
PATTERNS = (TEMPORAL, SPATIAL, TEXTURAL)  # in the order that RainFusion tries them
CANDIDATES = (
    ROUTING,
    Candidate("tile means by place", PLACE, ROUTED),
    Candidate("tile means in cubes", CUBES, ROUTED),
    SPATIAL,
    TEMPORAL,
    TEXTURAL,
)


@dataclass(frozen=True)
class HeadChoice:
    """Choice of a layer's heads: of each a candidate and a density.

    errors: of each head's output, relative, measured as it was chosen; error: of the layer's whole output.
    """

    candidates: tuple[Candidate, ...]
    densities: tuple[float, ...]
    errors: tuple[float, ...] = ()
    error: float = 0.0

    @staticmethod
    def same(candidate: Candidate, density: float, heads: int) -> HeadChoice:
        """Return the choice of one candidate for all heads."""
        return HeadChoice((candidate,) * heads, (density,) * heads)


class TileProblem:
    """The tensors of one call, and the lists of tiles for any candidate; means of tiles are computed once.

    q `[B, M, H, D]`: the sparse rows' queries; k, v `[B, N, H, D]`.
    """

    def __init__(self, call: TileCall, q: Tensor, k: Tensor, v: Tensor, scale: float):
        self.call, self.q, self.k, self.v, self.scale = call, q, k, v, scale
        self._scores: dict[str, Tensor] = {}

    @property
    def heads(self) -> int:
        return self.q.shape[2]

    def scores(self, order: str) -> Tensor:
        """Return the scores of all pairs of tiles in an order, for all heads: fp32 `[B, H, n_q, n_k]`."""
        if order not in self._scores:
            number = self.call.orders.names.index(order)
            index = torch.full((self.heads,), number, device=self.q.device)
            self._scores[order] = self._scores_of(index)
        return self._scores[order]

    def _scores_of(self, of_head: Tensor) -> Tensor:
        call = self.call
        query_means = tile_means(self.q, call.query_tile, call.queries[:, of_head.long()])
        key_means = tile_means(self.k, call.key_tile, call.orders.keys[of_head.long()].unsqueeze(0))
        return tile_scores(query_means, key_means, call.layout.rows, self.scale, call.key_tile)

    def lists(self, candidate: Candidate, density: float, tiles: Tensor) -> Tensor:
        """Return a candidate's lists for some tiles of queries, for all heads: int32 `[B, H, r, count]`.

        tiles: numbers of the tiles, int64 `[1 or B, r]`.
        """
        count = self.call.count(density)
        if candidate.kind == ROUTED and count < self.call.key_tiles:
            counts = torch.full((self.heads,), count, dtype=torch.int32, device=self.q.device)
            return select_tiles(self._scores_at(candidate.order, tiles), counts, count, self.call.forced)
        lists = pattern_lists(self.call, candidate, count).expand(self.q.shape[0], self.heads, -1, -1)
        return lists.take_along_dim(tiles.unsqueeze(1).unsqueeze(-1), 2)

    def _scores_at(self, order: str, tiles: Tensor) -> Tensor:
        return self.scores(order).take_along_dim(tiles.unsqueeze(1).unsqueeze(-1), 2)

    def rest(self, order: str, lists: Tensor, tiles: Tensor) -> Rest:
        """Return the term for the tiles that lists `[B, H, r, count]` in an order leave out, for all heads."""
        number = self.call.orders.names.index(order)
        means = tile_means(self.v, self.call.key_tile, self.call.orders.keys[number].view(1, 1, -1))
        return rest_of(self._scores_at(order, tiles), lists, means)

    def key_tiles(self, choice: HeadChoice, with_rest: bool) -> KeyTiles:
        """Return the lists of a choice, in one launch for all heads."""
        call, device = self.call, self.q.device
        orders = torch.tensor(
            [call.orders.names.index(candidate.order) for candidate in choice.candidates], dtype=torch.int32
        ).to(device)
        host_counts = [call.count(density) for density in choice.densities]
        counts, length = torch.tensor(host_counts, dtype=torch.int32).to(device), max(host_counts)
        scores = None
        if with_rest or any(candidate.kind == ROUTED for candidate in choice.candidates):
            scores = self._scores_of(orders)
        tiles = self._tiles(choice, host_counts, counts, length, scores)
        rest = None
        if with_rest and scores is not None:
            key_means = call.orders.keys[orders.long()].unsqueeze(0)
            rest = rest_of(scores, tiles, tile_means(self.v, call.key_tile, key_means))
        in_raster = all(candidate.order == RASTER for candidate in choice.candidates)
        return KeyTiles(
            counts=counts.view(1, -1, 1).expand(*tiles.shape[:2], call.query_tiles).contiguous(),
            tiles=tiles,
            orders=call.orders_of(orders, in_raster),
            rest=rest,
            query_tile=call.query_tile,
            key_tile=call.key_tile,
        )

    def _tiles(
        self, choice: HeadChoice, host_counts: Sequence[int], counts: Tensor, length: int, scores: Tensor | None
    ) -> Tensor:
        batch, call = self.q.shape[0], self.call
        if scores is not None:
            tiles = select_tiles(scores, counts, length, call.forced)
        else:
            shape = (batch, self.heads, call.query_tiles, length)
            tiles = torch.full(shape, UNLISTED, dtype=torch.int32, device=self.q.device)
        patterns = [
            (head, candidate, host_counts[head])
            for head, candidate in enumerate(choice.candidates)
            if candidate.kind != ROUTED
        ]
        for candidate, count in dict.fromkeys((candidate, count) for _, candidate, count in patterns):
            heads = [head for head, *what in patterns if what == [candidate, count]]
            tiles[:, heads, :, :count] = pattern_lists(call, candidate, count)
        return tiles


def pattern_lists(call: TileCall, candidate: Candidate, count: int) -> Tensor:
    """Return the lists of a candidate that looks at no tensor: int32 `[1 or B, 1, n_q, count]`."""
    device, free = call.queries.device, call.key_tiles - call.forced
    own = count - call.forced
    numbers = torch.arange(own, dtype=torch.int32, device=device)
    if candidate.kind == NEAR and own < free:
        centres = call.centres[:, call.orders.names.index(candidate.order)]
        start = (centres - own / 2).round().clamp(0, free - own).to(torch.int32)
        numbers = start.unsqueeze(-1) + numbers
    else:
        numbers = numbers.expand(1, call.query_tiles, -1)
    last = torch.arange(free, call.key_tiles, dtype=torch.int32, device=device)
    return torch.cat([numbers, last.expand(*numbers.shape[:2], -1)], -1).unsqueeze(1)
