"""The error of a head's output under lists of key tiles, measured on sampled rows.

Output decides, not recall: where values vary little, a head may leave out most of its attention and lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .candidates import Candidate, TileProblem
from .orders import inverse

ROWS = 64
MAX_SCORES = 1 << 25  # fp32 scores held at once: 128 MiB


def sampled_rows(count: int, seed: int, device: torch.device, rows: int = ROWS) -> Tensor:
    """Return numbers of rows, spread over all `count`, one drawn at random from each equal part: int64, ascending."""
    rows = min(rows, count)
    draw = torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    return ((torch.arange(rows) + draw) * count / rows).long().clamp(max=count - 1).to(device)


def output_errors(problem: TileProblem, rows: Tensor, ways: Sequence[tuple[Candidate, float]]) -> Tensor:
    """Return the relative error of the output of sampled rows, fp32 `[len(ways), H]`, in the Euclidean norm.

    ways: candidates with their densities; rows: numbers of the problem's queries, int64 `[r]`.
    """
    batch, _, heads, _ = problem.q.shape
    masks = [_tile_mask(problem, rows, candidate, density) for candidate, density in ways]
    tile_of_key = problem.call.orders.places // problem.call.key_tile
    group = max(1, MAX_SCORES // (batch * len(rows) * problem.call.layout.rows))
    parts = []
    for first in range(0, heads, group):
        part = slice(first, first + group)
        q, k, v = (each[:, :, part].transpose(1, 2) for each in (problem.q[:, rows], problem.k, problem.v))
        scores = (q.float() * problem.scale) @ k.float().transpose(-1, -2)
        weights = (scores - scores.amax(-1, keepdim=True)).exp_()
        v = v.float()
        exact = (weights @ v) / weights.sum(-1, keepdim=True)
        size = exact.square().sum((0, 2, 3)).clamp_min(1e-30)
        errors = []
        for (candidate, _), mask in zip(ways, masks, strict=True):
            order = problem.call.orders.names.index(candidate.order)
            kept = weights * mask[:, part].index_select(-1, tile_of_key[order])
            found = (kept @ v) / kept.sum(-1, keepdim=True).clamp_min(1e-30)
            errors.append(((found - exact).square().sum((0, 2, 3)) / size).sqrt())
        parts.append(torch.stack(errors))
    return torch.cat(parts, 1)


def _tile_mask(problem: TileProblem, rows: Tensor, candidate: Candidate, density: float) -> Tensor:
    """Return which key tiles the sampled rows attend to: fp32 `[B, H, r, n_k]`, 1 or 0."""
    call = problem.call
    places = inverse(call.queries[:, call.orders.names.index(candidate.order)])[:, rows]
    tile = (places // call.query_tile).unsqueeze(1).unsqueeze(-1)  # [1 or B, 1, r, 1]
    lists = problem.lists(candidate, density)
    listed = lists.take_along_dim(tile.expand(*lists.shape[:2], -1, 1), 2).long()
    mask = torch.zeros(*listed.shape[:3], call.key_tiles + 1, device=listed.device)
    return mask.scatter_(-1, listed.clamp(max=call.key_tiles), 1.0)[..., :-1]
