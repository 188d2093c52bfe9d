"""How the heads of a layer come to their choice: by measured output error, by one rule for all, or as RainFusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .candidates import CANDIDATES, PATTERNS, ROUTING, SPATIAL, TEMPORAL, TEXTURAL, Candidate, HeadChoice, TileProblem
from .layout import RowLayout
from .plan import AUTO, RAINFUSION, SparsePlan
from .plan import ROUTING as ROUTING_ONLY
from .probe import MAX_SCORES, output_errors

LEVELS = (0.2, 0.3, 0.5, 0.75, 1.0)  # densities that a head over the limit goes up to
MIN_RECALL = 0.9  # RainFusion: of a pattern, for a head to take it
MAX_FIRST_FRAME = 0.25  # RainFusion: of the density, that the first frame may take up

Choose = Callable[[TileProblem, Tensor, SparsePlan], HeadChoice]


def choose_by_error(problem: TileProblem, rows: Tensor, plan: SparsePlan) -> HeadChoice:
    """Take for each head the candidate of the least output error. rows: sampled, see `output_errors`."""
    orders = problem.call.orders.names
    return _least_error(problem, rows, plan, [each for each in CANDIDATES if each.order in orders])


def choose_routing(problem: TileProblem, rows: Tensor, plan: SparsePlan) -> HeadChoice:
    """Route all heads by the means of tiles in the model's own order."""
    return _least_error(problem, rows, plan, [ROUTING])


def _least_error(problem: TileProblem, rows: Tensor, plan: SparsePlan, candidates: list[Candidate]) -> HeadChoice:
    """Take the candidate of the least error; heads over the plan's limit go up to the next density."""
    density = plan.density
    chosen: list[tuple[Candidate, float, float]] = []
    while True:
        found = output_errors(problem, rows, [(candidate, density) for candidate in candidates])
        errors, numbers = (each.tolist() for each in found.min(0))
        at_level = [(candidates[n], density, error) for n, error in zip(numbers, errors, strict=True)]
        chosen = [
            new if not chosen or _is_over(old[2], plan) else old
            for new, old in zip(at_level, chosen or at_level, strict=True)
        ]
        higher = [level for level in LEVELS if level > density + 1e-6]
        if not higher or not any(_is_over(error, plan) for _, _, error in chosen):
            break
        density = higher[0]
    return HeadChoice(*map(tuple, zip(*chosen, strict=True)))


def _is_over(error: float, plan: SparsePlan) -> bool:
    return plan.limit > 0.0 and not error <= plan.limit


def choose_as_rainfusion(problem: TileProblem, rows: Tensor, plan: SparsePlan) -> HeadChoice:
    """Choose a pattern by its recall on two samples of the tokens (RainFusion, arXiv 2505.21036, §3).

    Within a frame, the tokens nearby stand for the temporal pattern; one token in ω of all frames for the spatial one.
    A head takes the first pattern that recalls MIN_RECALL of its attention, textural if none does.
    """
    layout = problem.call.layout
    if (
        layout.grid is None
        or not problem.call.is_full
        or not {TEMPORAL.order, TEXTURAL.order} <= set(problem.call.orders.names)
    ):
        return choose_routing(problem, rows, replace(plan, limit=0.0))
    frames, height, width = layout.grid
    size = height * width
    local = torch.arange(size, device=problem.q.device)
    across = torch.arange(0, layout.sparse, max(1, frames - 1), device=problem.q.device)[:size]
    half_band = 1.0 - math.sqrt(1.0 - plan.density)
    temporal, spatial = (_recall(problem, sample, half_band) for sample in (local, across))
    taken = [
        TEMPORAL if near >= MIN_RECALL else SPATIAL if far >= MIN_RECALL else TEXTURAL
        for near, far in zip(temporal, spatial, strict=True)
    ]
    errors = output_errors(problem, rows, [(pattern, plan.density) for pattern in PATTERNS]).tolist()
    measured = [errors[PATTERNS.index(pattern)][head] for head, pattern in enumerate(taken)]
    return HeadChoice(tuple(taken), (plan.density,) * len(taken), tuple(measured))


def _recall(problem: TileProblem, sample: Tensor, half_band: float) -> list[float]:
    """Return the share of a sample's attention to itself that lies within a band, by head."""
    count = len(sample)
    places = torch.arange(count, device=sample.device)
    band = (places.unsqueeze(1) - places).abs() <= half_band * count
    group = max(1, MAX_SCORES // (problem.q.shape[0] * count * count))
    found = []
    for first in range(0, problem.heads, group):
        part = slice(first, first + group)
        q = problem.q[:, sample, part].transpose(1, 2).float() * problem.scale
        k = problem.k[:, problem.call.layout.before + sample, part].transpose(1, 2).float()
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        found.append((weights * band).sum((0, 2, 3)) / (weights.shape[0] * count))
    return torch.cat(found).tolist()


def layout_of(choice: str, layout: RowLayout, density: float) -> RowLayout:
    """Return the layout that a method works on: RainFusion computes the first frame in full where density allows it."""
    if choice != RAINFUSION or layout.grid is None:
        return layout
    with_frame = layout.with_first_frame_dense()
    extra = 1.0 - (with_frame.sparse / layout.rows) ** 2
    return with_frame if extra <= MAX_FIRST_FRAME * density else layout


METHODS: dict[str, Choose] = {
    AUTO: choose_by_error,
    ROUTING_ONLY: choose_routing,
    RAINFUSION: choose_as_rainfusion,
}
