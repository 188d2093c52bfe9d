"""Block sparsity over keys: which tiles of keys each tile of queries attends to.

The base for patterns in space and time per head. It composes with selected queries: query tiles count the rows that
are there, key tiles the tokens of the whole video. Nothing here decides which tiles matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_TILE = 128
KEY_TILE = 64


@dataclass(frozen=True)
class KeyTiles:
    """counts: int32 `[B, H, ceil(M / 128)]`, how many tiles of 64 keys a tile of 128 queries attends to.

    tiles: int32 `[B, H, ceil(M / 128), L]`, their numbers, ascending; entries from `counts` on are ignored. A tile of
    queries without any tile of keys gets zeros and a log-sum-exp of −∞.
    """

    counts: Tensor
    tiles: Tensor

    @staticmethod
    def from_mask(mask: Tensor) -> KeyTiles:
        """From a bool `[B, H, ceil(M / 128), ceil(N / 64)]`: which pairs of tiles are computed."""
        # Kept numbers first, each part ascending: a stable sort of "not wanted".
        order = torch.sort((~mask).to(torch.int8), dim=-1, stable=True).indices
        return KeyTiles(mask.sum(-1, dtype=torch.int32), order.to(torch.int32).contiguous())

    def mask(self, queries: int, keys: int) -> Tensor:
        """Bool `[B, H, M, N]`: which keys each query attends to."""
        length = self.tiles.shape[-1]
        listed = torch.arange(length, device=self.tiles.device) < self.counts.unsqueeze(-1)
        columns = -(-keys // KEY_TILE)
        wanted = torch.zeros(*self.counts.shape, columns + 1, dtype=torch.bool, device=self.tiles.device)
        # What is not listed goes to a column that is cut off again.
        wanted.scatter_(-1, torch.where(listed, self.tiles, columns).long(), True)
        rows = wanted[..., :columns].repeat_interleave(QUERY_TILE, dim=2)[:, :, :queries]
        return rows.repeat_interleave(KEY_TILE, dim=3)[..., :keys]
