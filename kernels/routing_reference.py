"""Definition of the two operations of routing that have kernels, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNLISTED = torch.iinfo(torch.int32).max  # in lists, from their counts on


def tile_means_reference(x: Tensor, tile: int, rows: Tensor | None = None) -> Tensor:
    """Compute `tile_means` in plain torch."""
    batch, count, heads, _ = x.shape
    x = x.transpose(1, 2).float()
    if rows is not None:
        # Row by row: an index that is expanded over channels would be read as often as the values.
        rows = rows.long().expand(batch, heads, -1)
        ordered = [x[b, h].index_select(0, rows[b, h]) for b in range(batch) for h in range(heads)]
        x = torch.stack(ordered).unflatten(0, (batch, heads))
    whole = count // tile
    means = x[:, :, : whole * tile].unflatten(2, (whole, tile)).mean(3)
    if whole * tile < count:
        means = torch.cat([means, x[:, :, whole * tile :].mean(2, keepdim=True)], 2)
    return means


def select_tiles_reference(scores: Tensor, counts: Tensor, length: int, forced: int = 0) -> Tensor:
    """Compute `select_tiles` in plain torch."""
    free = scores.shape[-1] - forced
    scores = scores[..., :free].nan_to_num(-math.inf, math.inf, -math.inf)
    best = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., : length - forced]
    listed = torch.arange(best.shape[-1], device=scores.device) < (counts - forced).view(-1, 1, 1)
    best = torch.where(listed, best, UNLISTED)
    last = torch.arange(free, free + forced, device=scores.device).expand(*best.shape[:-1], -1)
    lists = torch.cat([best, last], -1).sort(dim=-1).values.to(torch.int32)
    return torch.nn.functional.pad(lists, (0, length - lists.shape[-1]), value=UNLISTED)
