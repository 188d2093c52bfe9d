"""Methods by which a layer's heads choose: by measured output error, one rule for all, or as RainFusion does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .allocation import LayerAllocation
from .candidates import CANDIDATES, ROUTING, SPATIAL, TEMPORAL, TEXTURAL, Candidate, HeadChoice, TileProblem
from .layout import RowLayout
from .plan import AUTO, MEAN, RAINFUSION, SparsePlan
from .plan import ROUTING as ROUTING_ONLY
from .probe import MAX_SCORES, Probe

LEVELS = (0.2, 0.3, 0.5, 0.75, 1.0)  # densities that a head over the limit goes up to
MIN_RECALL = 0.9  # RainFusion: of a pattern, for a head to take it
MAX_FIRST_FRAME = 0.25  # RainFusion: of the density, that the first frame may take up

Choose = Callable[[TileProblem, Tensor, SparsePlan, "LayerAllocation | None"], HeadChoice]


def choose_by_error(
    problem: TileProblem, rows: Tensor, plan: SparsePlan, allocation: LayerAllocation | None = None
) -> HeadChoice:
    """Take for each head the candidate of the least output error.

    rows: sampled, see `output_errors`; allocation: divides the density among the heads, None: all get the plan's.
    """
    orders = problem.call.orders.names
    return _least_error(problem, rows, plan, [each for each in CANDIDATES if each.order in orders], allocation)


def choose_routing(
    problem: TileProblem, rows: Tensor, plan: SparsePlan, allocation: LayerAllocation | None = None
) -> HeadChoice:
    """Route all heads by the means of tiles in the model's own order."""
    return _least_error(problem, rows, plan, [ROUTING], None)


def _least_error(
    problem: TileProblem,
    rows: Tensor,
    plan: SparsePlan,
    candidates: list[Candidate],
    allocation: LayerAllocation | None,
) -> HeadChoice:
    """Take the candidate of the least error at the plan's density, then the density by the allocation and the limit."""
    probe = Probe(problem, rows, plan.rest == MEAN)
    errors, numbers = probe.errors([(each, plan.density, None) for each in candidates]).min(0)
    taken = [candidates[number] for number in numbers.tolist()]
    densities = [plan.density] * len(taken)
    if allocation is not None:
        levels = allocation.levels()
        curves = _errors_at(probe, taken, [[level] * len(taken) for level in levels])
        real, mean = problem.call.shares(levels), float(problem.call.shares([plan.density]))
        chosen = allocation.choose(real, curves.square() * probe.parts, mean)
        densities = [levels[level] for level in chosen]
        errors = curves.gather(0, torch.tensor([chosen], device=curves.device))[0]
    densities, errors = _under_limit(probe, plan.limit, taken, densities, errors)
    return _choice(taken, densities, errors, probe.parts)


def _choice(taken: list[Candidate], densities: Sequence[float], errors: Tensor, parts: Tensor) -> HeadChoice:
    whole = float((errors.square() * parts).sum().sqrt())
    return HeadChoice(tuple(taken), tuple(densities), tuple(errors.tolist()), whole)


def _errors_at(probe: Probe, taken: list[Candidate], levels: Sequence[Sequence[float]]) -> Tensor:
    """Return the errors of heads that take different candidates, at densities by level and head, `[levels, H]`."""
    ways = list(dict.fromkeys((way, level) for level, own in enumerate(levels) for way in zip(taken, own, strict=True)))
    heads = [[n for n, own in enumerate(zip(taken, levels[level], strict=True)) if own == way] for way, level in ways]
    found = probe.errors([(*way, own) for (way, _), own in zip(ways, heads, strict=True)])
    errors = torch.empty(len(levels), len(taken), device=found.device)
    for number, ((_, level), own) in enumerate(zip(ways, heads, strict=True)):
        errors[level, own] = found[number, own]
    return errors


def _under_limit(
    probe: Probe, limit: float, taken: list[Candidate], densities: list[float], errors: Tensor
) -> tuple[list[float], Tensor]:
    """Raise the density of heads over the limit level by level; returns all densities and errors."""
    while limit > 0.0:
        over = [not error <= limit for error in errors.tolist()]
        higher = [
            next((level for level in LEVELS if level > density + 1e-6), density) if is_over else density
            for density, is_over in zip(densities, over, strict=True)
        ]
        if higher == densities:
            break
        densities, errors = higher, _errors_at(probe, taken, [higher])[0]
    return densities, errors


def choose_as_rainfusion(
    problem: TileProblem, rows: Tensor, plan: SparsePlan, allocation: LayerAllocation | None = None
) -> HeadChoice:
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
    probe, densities = Probe(problem, rows, plan.rest == MEAN), [plan.density] * len(taken)
    errors = _errors_at(probe, taken, [densities])[0]
    return _choice(taken, densities, errors, probe.parts)


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
