"""Routing: which key tiles a tile of queries attends to, by the means of tiles.

The score of a pair of tiles is the scaled product of their means plus the logarithm of the key tile's size: for queries
and keys that differ little within a tile, what the key tile has in the sum of the softmax.

`tile_means` and `select_tiles` have a Triton kernel each, used where Triton runs; `routing_reference` defines them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .key_tiles import KEY_TILE, Rest
from .routing_reference import select_tiles_reference, tile_means_reference
from .triton_attention import routing_kernels

MAX_TILES_IN_KERNEL = 4096  # key tiles of one row that the selection kernel holds


def tile_means(x: Tensor, tile: int, rows: Tensor | None = None) -> Tensor:
    """Return the mean of each tile of rows, fp32 `[B, H, ceil(N / tile), D]`.

    x `[B, N, H, D]`; rows: the row at each place, int32 `[1 or B, 1 or H, N]`; None: rows as they are.
    """
    if routing_kernels.can_pool(x, tile):
        return routing_kernels.tile_means(x, tile, rows)
    return tile_means_reference(x, tile, rows)


def tile_scores(query_means: Tensor, key_means: Tensor, keys: int, scale: float, key_tile: int = KEY_TILE) -> Tensor:
    """Return scores of pairs of tiles, natural logarithm, fp32 `[B, H, n_q, n_k]`.

    keys: N, as the last tile may hold fewer than `key_tile`.
    """
    scores = (query_means * scale) @ key_means.transpose(-1, -2)
    scores += math.log(key_tile)
    if beyond := keys % key_tile:
        scores[..., -1] += math.log(beyond / key_tile)
    return scores


def select_tiles(scores: Tensor, counts: Tensor, length: int, forced: int = 0) -> Tensor:
    """Return lists of the key tiles with the highest scores: int32 `[B, H, n_q, length]`, ascending, then UNLISTED.

    scores: fp32 `[B, H, n_q, n_k]`; counts: int32 `[H]`, tiles to list in each row of a head, at most `length` and n_k;
    forced: tiles at the end that are listed whatever their score; no count is less. Of equal scores the first ones
    count. NaN counts as the lowest.
    """
    if routing_kernels.can_select(scores, MAX_TILES_IN_KERNEL):
        return routing_kernels.select_tiles(scores, counts, length, forced)
    return select_tiles_reference(scores, counts, length, forced)


def rest_of(scores: Tensor, tiles: Tensor, value_means: Tensor) -> Rest:
    """Return the term of all tiles that are not listed: the sum of their scores, and their mean value weighed by it.

    scores: fp32 `[B, H, n_q, n_k]`; tiles: lists from `select_tiles`; value_means: fp32 `[B, H, n_k, D]`.
    """
    wide = torch.cat([scores, torch.full_like(scores[..., :1], -math.inf)], -1)
    listed = tiles.long().clamp_(max=scores.shape[-1])  # entries that list nothing go to the extra column
    others = wide.scatter_(-1, listed, -math.inf)[..., :-1]
    top = torch.logsumexp(others, -1)
    weights = (others - top.unsqueeze(-1)).exp_().nan_to_num_(0.0)
    return Rest(top, weights @ value_means)
