"""What one would draw by hand: where every search begins, and what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ScheduleError
from ...schedules import Schedule, budgets_for, equivalent_steps, forecast_for, periodic, pick, uniform, warped_skip
from ..candidate import Genome, mean_budget, with_ends
from ..problem import SamplingConfig

# Lean, full steps at the start and at the end.
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
TOKEN_PATTERN = (0.0, 0.0, 0.7)


def bundled_candidate(setting: SamplingConfig, budget: float, schedules: Sequence[Schedule] | None = None) -> Genome:
    """The schedule that `auto` would take, on this run's steps: of the bundled ones unless others are given."""
    told = setting.facts.get("sampling", {}).get("cfg")
    guidance = {} if told is None else {"guidance": float(told)}
    try:
        schedule = pick(budget, setting.family, schedules, setting.steps, **guidance)
        schedule = pick(budget, setting.family, schedules, equivalent_steps(schedule, setting.sigmas), **guidance)
    except ScheduleError:
        schedule = warped_skip("even", budget, setting.sigmas[:-1])
    placed = budgets_for(schedule, setting.sigmas, evaluations=setting.evaluations, mean=budget)
    forecast = forecast_for(schedule, setting.sigmas, placed, told)
    return Genome(tuple(with_ends(placed, setting.sigmas)), forecast, schedule.mode)


def step_skipping_candidates(setting: SamplingConfig, budget: float) -> list[Genome]:
    """Whole steps, evenly placed and leaning to either end: as many as the budget pays for."""
    levels, found = setting.sigmas[:-1], []
    for warp, start, end in SHAPES:
        shape = warped_skip("seed", budget, levels, warp=warp, full_start=start, full_end=end)
        placed = budgets_for(shape, setting.sigmas, evaluations=setting.evaluations, mean=budget)
        found.append(Genome(tuple(with_ends(placed, setting.sigmas))))
    affordable = [g for g in found if mean_budget(g.budgets, setting.evaluations) <= budget + 1e-6]
    return list(dict.fromkeys(affordable))


def token_candidate(setting: SamplingConfig, budget: float, pattern: Sequence[float] = TOKEN_PATTERN) -> Genome:
    """A rhythm of steps between a full first and a computed last one; where few fit, all may come out whole."""
    shape = periodic("seed", list(pattern), setting.sigmas[:-1], full_start=1)
    placed = budgets_for(shape, setting.sigmas, evaluations=setting.evaluations, mean=budget)
    return Genome(tuple(with_ends(placed, setting.sigmas)))


def uniform_candidate(setting: SamplingConfig, budget: float) -> Genome:
    """The same budget at every step between a full first and a full last one."""
    shape = uniform("uniform", budget, setting.sigmas[:-1])
    placed = budgets_for(shape, setting.sigmas, evaluations=setting.evaluations, mean=budget)
    return Genome(tuple(with_ends(placed, setting.sigmas)))
