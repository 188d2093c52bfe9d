"""Other ways to leave attention out, at the same density: what `sparse_quality.py` compares with. Torch only.

Each returns which keys a query attends to, bool `[B, H, M, N]`. They are emulated by a mask, so their time says
nothing. SVG2: Sparse-VideoGen 2 (arXiv 2505.18875), k-means of queries and of keys. Draft: DraftAttention (arXiv
2505.14708), a map of regions pooled within frames. Best: the tiles with the most attention, which no method can know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import astraea.host.sampling.sparse as host_sparse
from astraea.engine.sparse.candidates import CANDIDATES, HeadChoice, TileProblem
from astraea.engine.sparse.run import SparseRun
from astraea.kernels.key_tiles import KeyTiles

RANDOM, SVG2, DRAFT, BEST = "random tiles", "SVG2", "DraftAttention", "best tiles"
ROUNDS = 10  # of k-means
Mask = Callable[[TileProblem, float, torch.Generator], Tensor]


def scores_of(problem: TileProblem) -> Tensor:
    """Scores of all queries and keys `[B, H, M, N]`."""
    q, k = (each.transpose(1, 2).float() for each in (problem.q, problem.k))
    return (q * problem.scale) @ k.transpose(-1, -2)


def tiles_to_tokens(problem: TileProblem, wanted: Tensor) -> Tensor:
    call = problem.call
    lists = KeyTiles.from_mask(wanted)
    lists = KeyTiles(lists.counts, lists.tiles, query_tile=call.query_tile, key_tile=call.key_tile)
    return lists.mask(call.query_count, call.layout.rows)


def top(values: Tensor, count: int) -> Tensor:
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, values.topk(count, -1).indices, True)


def random_tiles(problem: TileProblem, density: float, generator: torch.Generator) -> Tensor:
    call = problem.call
    shape = (problem.q.shape[0], problem.heads, call.query_tiles, call.key_tiles)
    return tiles_to_tokens(problem, top(torch.rand(shape, generator=generator), call.count(density)))


def best_tiles(problem: TileProblem, density: float, generator: torch.Generator) -> Tensor:
    call = problem.call
    pad = (
        0,
        call.key_tiles * call.key_tile - call.layout.rows,
        0,
        call.query_tiles * call.query_tile - call.query_count,
    )
    weights = torch.nn.functional.pad(scores_of(problem).softmax(-1), pad)
    mass = weights.unflatten(-1, (-1, call.key_tile)).sum(-1).unflatten(2, (-1, call.query_tile)).sum(3)
    return tiles_to_tokens(problem, top(mass, call.count(density)))


def clustered(problem: TileProblem, density: float, generator: torch.Generator) -> Tensor:
    """Keep, for each cluster of queries, the clusters of keys with the most estimated attention."""
    call = problem.call
    masks = []
    for q, k in zip(*(each.transpose(1, 2).flatten(0, 1).float() for each in (problem.q, problem.k)), strict=True):
        own, query_means = k_means(q, call.query_tiles, generator)
        of_key, key_means = k_means(k, call.key_tiles, generator)
        sizes = torch.bincount(of_key, minlength=len(key_means))
        score = (query_means * problem.scale) @ key_means.T + sizes.clamp(min=1).log()
        order = score.masked_fill(sizes == 0, -math.inf).argsort(-1, descending=True)
        before = sizes[order].cumsum(-1) - sizes[order]
        kept = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before < density * len(k))
        masks.append(kept[own][:, of_key])
    return torch.stack(masks).unflatten(0, (problem.q.shape[0], problem.heads))


def k_means(x: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The cluster of each row `[n]`, and the clusters' means `[count, D]`."""
    means = x[torch.randperm(len(x), generator=generator)[:count]].clone()
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, means).argmin(-1)
        sums = torch.zeros_like(means).index_add_(0, nearest, x)
        sizes = torch.bincount(nearest, minlength=len(means)).unsqueeze(-1)
        means = torch.where(sizes > 0, sums / sizes.clamp(min=1), means)
    return nearest, means


def drafted(problem: TileProblem, density: float, generator: torch.Generator) -> Tensor:
    """Keep the greatest entries of the attention map of square regions within frames, over all queries of a head."""
    frames, height, width = problem.call.layout.grid or (1, 1, problem.call.layout.rows)
    side = 1 << round(math.log2(problem.call.key_tile) / 2)
    place = torch.arange(height * width)
    region = place // width // side * -(-width // side) + place % width // side
    region = (region + torch.arange(frames).unsqueeze(1) * (int(region.max()) + 1)).flatten()
    sizes = torch.bincount(region).view(-1, 1)
    q, k = (each.transpose(1, 2).float() for each in (problem.q, problem.k))
    shape = (*q.shape[:2], len(sizes), q.shape[-1])
    q, k = (torch.zeros(shape).index_add_(2, region, each) / sizes for each in (q, k))
    weights = ((q * problem.scale) @ k.transpose(-1, -2)).softmax(-1).flatten(2)
    kept = top(weights, math.ceil(density * weights.shape[-1])).unflatten(2, (len(sizes), len(sizes)))
    return kept[:, :, region][..., region]


MASKS: dict[str, Mask] = {RANDOM: random_tiles, SVG2: clustered, DRAFT: drafted, BEST: best_tiles}


class MaskedRun(SparseRun):
    """A run whose sparse calls attend by a control's mask; errors are those of all rows."""

    mask: Mask = staticmethod(random_tiles)

    def _compute(self, problem: TileProblem, layer: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1000 + step * 50 + layer)
        scores, values = scores_of(problem), problem.v.transpose(1, 2).float()
        exact = scores.softmax(-1) @ values
        mask = self.mask(problem, self.plan.density, generator)
        out = scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0.0) @ values
        self.figures.errors.setdefault((layer, step), []).append(float((out - exact).norm() / exact.norm()))
        self.figures.pairs += mask.numel()
        self.figures.computed += float(mask.sum())
        self.figures.calls += 1
        self.figures.sparse_layers.add(layer)
        self.figures.sparse_steps.add(step)
        return out.transpose(1, 2).to(problem.q.dtype)

    def _attend(self, call: Any, rows: Any, layer: int, model_call: Any) -> Tensor:
        return self._compute(self._problem(call, rows, model_call), layer, model_call.step)

    def _problem(self, call: Any, rows: Any, model_call: Any) -> TileProblem:
        tiled = self._tiled(rows, call.q.device, None, model_call)
        return TileProblem(tiled, call.q, call.k, call.v, call.scale)


@contextmanager
def as_control(name: str) -> Iterator[None]:
    """Within the context, runs attend as a control does instead of by their plan's choice."""
    original = host_sparse.SparseRun
    host_sparse.SparseRun = type("Control", (MaskedRun,), {"mask": staticmethod(MASKS[name])})  # type: ignore[misc]
    try:
        yield
    finally:
        host_sparse.SparseRun = original  # type: ignore[misc]


def choose_only(name: str) -> Callable[..., HeadChoice]:
    """A method that takes one candidate for every head."""
    from astraea.engine.sparse.probe import Probe

    candidate = next(each for each in CANDIDATES if each.name == name)

    def choose(problem: TileProblem, rows: Tensor, plan: Any, allocation: Any = None) -> HeadChoice:
        probe = Probe(problem, rows)
        errors = probe.errors([(candidate, plan.density, None)])[0]
        same = HeadChoice.same(candidate, plan.density, problem.heads)
        return replace(same, error=float((errors.square() * probe.parts).sum().sqrt()), errors=tuple(errors.tolist()))

    return choose


@contextmanager
def with_method(choose: Callable[..., HeadChoice]) -> Iterator[None]:
    """Within the context, `auto` chooses so."""
    from astraea.engine.sparse.methods import METHODS
    from astraea.engine.sparse.plan import AUTO

    original = METHODS[AUTO]
    METHODS[AUTO] = choose
    try:
        yield
    finally:
        METHODS[AUTO] = original
