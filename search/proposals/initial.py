"""Candidates from known schedules and simple patterns: the baselines of a search, and patterns with partial steps."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ScheduleError
from ...schedules import (
    Schedule,
    budgets_for,
    equivalent_steps,
    forecast_for,
    mean_budget,
    periodic,
    pick,
    uniform,
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


def bundled_candidate(setting: SamplingConfig, budget: float, schedules: Sequence[Schedule] | None = None) -> Genome:
    """Return the schedule that `auto` takes, on this run's steps. schedules: default the bundled ones.

    On a part of the noise levels `auto` may take another: it counts a run's steps by its pick for USUAL_STEPS.
    """
    guidance = {} if setting.cfg is None else {"guidance": setting.cfg}
    try:
        schedule = pick(budget, setting.family, schedules, setting.steps, **guidance)
        schedule = pick(budget, setting.family, schedules, equivalent_steps(schedule, setting.sigmas), **guidance)
    except ScheduleError:
        schedule = warped_skip("even", budget, setting.sigmas[:-1])
    placed = budgets_for(schedule, setting.sigmas, calls_per_step=setting.calls_per_step, mean=budget)
    forecast = forecast_for(schedule, setting.sigmas, placed, setting.cfg)
    return Genome(tuple(with_ends(placed, setting.sigmas)), forecast, schedule.mode)


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
