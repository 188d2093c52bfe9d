"""Candidates of a search: a budget per step and forecast settings, with the operators that mutate and mix them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ...limits import ZERO_SIGMA
from ...schedules import ANY_FAMILY, DEFAULT_FORECAST, DEFAULT_MODE, Forecast, Schedule, mean_budget
from ...schedules.resample import MIN_LAST_BUDGET

MAX_MOVE = 3  # steps by which one move shifts a computed step at most
# Values that a search tries for each setting of the forecasts.
ONSETS, REACHES, RESPONSES = (0.005, 0.015, 0.05), (1.0, 2.0, 4.0), (0.0, 0.7, 1.0)


def forecasts_like(forecast: Forecast) -> list[Forecast]:
    """Return all combinations of values that a search tries, for this swing."""
    return [Forecast(*settings, forecast.swing) for settings in product(ONSETS, REACHES, RESPONSES)]


@dataclass(frozen=True)
class Genome:
    """A candidate. budgets: per step, the first 1, the last as `with_ends` leaves it; the rest as in `Schedule`."""

    budgets: tuple[float, ...]
    forecast: Forecast = DEFAULT_FORECAST
    mode: str = DEFAULT_MODE

    @property
    def has_partial_steps(self) -> bool:
        """Tell whether some step computes a part of its tokens; in a step-skipping candidate none does."""
        return not set(self.budgets) <= {0.0, 1.0}

    def schedule(self, sigmas: Sequence[float], family: str = ANY_FAMILY) -> Schedule:
        """Return the candidate as a schedule on these noise levels; the last one may be included."""
        points = tuple(zip(sigmas, self.budgets, strict=False))
        return Schedule("candidate", points, family=family, mode=self.mode, forecast=self.forecast)


def longest_skip(budgets: Sequence[float]) -> int:
    """Return the largest number of skipped steps in succession."""
    longest = run = 0
    for budget in budgets:
        run = run + 1 if budget == 0.0 else 0
        longest = max(longest, run)
    return longest


def move_steps(genome: Genome, rng: random.Random, moves: int = 1) -> Genome:
    """Move computed steps to nearby skipped ones, one per move; first and last step stay.

    The mean budget is kept if all steps have the same number of model calls.
    """
    budgets = list(genome.budgets)
    for _ in range(moves):
        computed = [k for k in range(1, len(budgets) - 1) if budgets[k] > 0.0]
        if not computed:
            break
        step = rng.choice(computed)
        nearby = range(max(1, step - MAX_MOVE), min(len(budgets) - 1, step + MAX_MOVE + 1))
        free = [k for k in nearby if budgets[k] == 0.0]
        if free:
            target = rng.choice(free)
            budgets[target], budgets[step] = budgets[step], 0.0
    return replace(genome, budgets=tuple(budgets))


def change_forecast(genome: Genome, rng: random.Random) -> Genome:
    """Change one forecast setting to another of its values."""
    now = genome.forecast
    neighbours = [replace(now, onset=onset) for onset in ONSETS]
    neighbours += [replace(now, reach=reach) for reach in REACHES]
    neighbours += [replace(now, response=response) for response in RESPONSES]
    return replace(genome, forecast=rng.choice([other for other in neighbours if other != now]))


def uniform_crossover(a: Sequence[float], b: Sequence[float], rng: random.Random) -> list[float]:
    """Take each step from one parent or the other (arXiv 2506.05096, §3.3)."""
    return [x if rng.random() < 0.5 else y for x, y in zip(a, b, strict=True)]


def with_ends(budgets: Sequence[float], sigmas: Sequence[float]) -> list[float]:
    """Set the first step to 1 and a last step that ends at sigma 0 to at least 0.5, as a run does anyway."""
    ended = [1.0, *budgets[1:]]
    if sigmas[-1] <= ZERO_SIGMA:
        ended[-1] = max(ended[-1], MIN_LAST_BUDGET)
    return ended


def fill_budget(genome: Genome, calls_per_step: Sequence[int], budget: float, rng: random.Random) -> Genome:
    """Skip or compute random steps of a step-skipping candidate until no further step fits the mean budget."""
    budgets, calls = list(genome.budgets), sum(calls_per_step)
    inner = range(1, len(budgets) - 1)
    while mean_budget(budgets, calls_per_step) > budget + 1e-6:
        computed = [k for k in inner if budgets[k] > 0.0]
        if not computed:
            break
        budgets[rng.choice(computed)] = 0.0
    while free := [k for k in inner if budgets[k] == 0.0]:
        step = rng.choice(free)
        if mean_budget(budgets, calls_per_step) + calls_per_step[step] / calls > budget + 1e-6:
            break
        budgets[step] = 1.0
    return replace(genome, budgets=tuple(budgets))
