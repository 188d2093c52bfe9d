"""Block sparsity over keys: lists of the key tiles that each tile of queries attends to.

It combines with selected queries: query tiles count the selected rows, key tiles the tokens of the whole video.
Nothing here decides which tiles matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_TILE = 128
KEY_TILE = 64


@dataclass(frozen=True)
class KeyTiles:
    """Key tiles for each tile of queries.

    counts: int32 `[B, H, ceil(M / 128)]`, number of tiles of 64 keys that a tile of 128 queries attends to.
    tiles: int32 `[B, H, ceil(M / 128), L]`, numbers of those tiles, ascending; entries from `counts` on are ignored.
    A tile of queries without key tiles gets zeros and a log-sum-exp of −∞.
    """

    counts: Tensor
    tiles: Tensor

    @staticmethod
    def from_mask(mask: Tensor) -> KeyTiles:
        """List the tiles of a bool mask `[B, H, ceil(M / 128), ceil(N / 64)]`."""
        # A stable sort of the inverted mask puts wanted numbers first, ascending.
        order = torch.sort((~mask).to(torch.int8), dim=-1, stable=True).indices
        return KeyTiles(mask.sum(-1, dtype=torch.int32), order.to(torch.int32).contiguous())

    def mask(self, queries: int, keys: int) -> Tensor:
        """Return the mask of all pairs, bool `[B, H, M, N]`: true where a query attends to a key."""
        length = self.tiles.shape[-1]
        listed = torch.arange(length, device=self.tiles.device) < self.counts.unsqueeze(-1)
        columns = -(-keys // KEY_TILE)
        wanted = torch.zeros(*self.counts.shape, columns + 1, dtype=torch.bool, device=self.tiles.device)
        # Entries that are not listed go to an extra column, which is cut off.
        wanted.scatter_(-1, torch.where(listed, self.tiles, columns).long(), True)
        rows = wanted[..., :columns].repeat_interleave(QUERY_TILE, dim=2)[:, :, :queries]
        return rows.repeat_interleave(KEY_TILE, dim=3)[..., :keys]
