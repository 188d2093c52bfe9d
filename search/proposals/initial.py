"""Candidates from known schedules and simple patterns: the baselines of a search, and patterns with partial steps."""

from __future__ import annotations

from collections.abc import Sequence

from ...schedules import (
    BUDGET_TOLERANCE,
    SamplerSteps,
    budgets_for,
    mean_budget,
    periodic,
    place_enough_steps,
    place_held,
    place_steps,
    uniform,
    usual_forecast,
    warped_skip,
)
from ..problem.candidate import Genome, with_ends
from ..problem.runner import SamplingConfig

# (warp, full steps at the start, full steps at the end)
SHAPES = (
    (0.0, 1, 1),
    (0.0, 1, 2),
    (0.125, 1, 1),
    (-0.125, 1, 1),
    (0.25, 1, 2),
    (0.0, 2, 1),
    (0.0, 3, 1),
    (0.0, 1, 4),
)
PARTIAL_PATTERN = (0.0, 0.0, 0.7)


def usual_candidate(setting: SamplingConfig, budget: float) -> Genome:
    """Return the whole steps that `auto` computes in this run if it keeps to the budget; see `enough_budget`."""
    forecast, most, known = usual_forecast(setting.cfg), _model_calls(setting, budget), setting.sampler_steps
    if known is None:
        placed = place_held(SamplerSteps.of_euler(setting.sigmas, setting.calls_per_step), most)
    else:
        placed = place_steps(known, most, forecast)
    return Genome(tuple(with_ends([float(computed) for computed in placed], setting.sigmas)), forecast)


def enough_budget(setting: SamplingConfig, budget: float) -> float:
    """Return the budget, or the larger one at which `auto` runs instead, as fewer steps would give another clip.

    Where `auto` computes every step, the budget: who searches then wants to skip some.
    """
    known = setting.sampler_steps
    if known is None:
        return budget
    placed = place_enough_steps(known, _model_calls(setting, budget), usual_forecast(setting.cfg))
    own = mean_budget([float(computed) for computed in placed], setting.calls_per_step)
    return own if budget < own < 1.0 else budget


def _model_calls(setting: SamplingConfig, budget: float) -> float:
    return budget * sum(setting.calls_per_step) * (1.0 + BUDGET_TOLERANCE)


def step_skipping_candidates(setting: SamplingConfig, budget: float) -> list[Genome]:
    """Return step-skipping candidates that fit the budget: evenly spaced steps, and denser ones at either end."""
    levels, found = setting.sigmas[:-1], []
    for warp, start, end in SHAPES:
        shape = warped_skip("seed", budget, levels, warp=warp, full_start=start, full_end=end)
        placed = budgets_for(shape, setting.sigmas, calls_per_step=setting.calls_per_step, mean=budget)
        found.append(Genome(tuple(with_ends(placed, setting.sigmas))))
    affordable = [g for g in found if mean_budget(g.budgets, setting.calls_per_step) <= budget + 1e-6]
    return list(dict.fromkeys(affordable))


def periodic_candidate(setting: SamplingConfig, budget: float, pattern: Sequence[float] = PARTIAL_PATTERN) -> Genome:
    """Return a periodic pattern of budgets between a full first and a computed last step.

    With few computed steps there may be no partial step among them.
    """
    shape = periodic("seed", list(pattern), setting.sigmas[:-1], full_start=1)
    placed = budgets_for(shape, setting.sigmas, calls_per_step=setting.calls_per_step, mean=budget)
    return Genome(tuple(with_ends(placed, setting.sigmas)))


def uniform_candidate(setting: SamplingConfig, budget: float) -> Genome:
    """Return the same budget at every step between a full first and a full last step."""
    shape = uniform("uniform", budget, setting.sigmas[:-1])
    placed = budgets_for(shape, setting.sigmas, calls_per_step=setting.calls_per_step, mean=budget)
    return Genome(tuple(with_ends(placed, setting.sigmas)))
