"""Density of a schedule's budget over a run's progress, and the sums that resampling is made of."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from .schedule import Schedule

PLACEMENT_TOLERANCE = 1e-4  # a noise level this close to a schedule's point lies on it
MIN_SPAN = 1e-6  # of progress that a run covers; one that covers less lies outside the schedule
BUDGET_TOLERANCE = 0.005  # relative difference from the wanted sum that is accepted
SMOOTHED_OVER = 2  # periods to either side


def progress_at(schedule: Schedule, sigma: float) -> float:
    """Return the progress (0…1) at which a noise level lies in the schedule's own run; beyond its ends: the ends."""
    levels = [-s for s in (*schedule.sigmas, 0.0)]
    index = bisect_left(levels, -sigma - PLACEMENT_TOLERANCE)
    if index == 0:
        return 0.0
    if index == len(levels):
        return 1.0
    before, after = -levels[index - 1], -levels[index]
    return (index - 1 + (before - sigma) / (before - after)) / len(schedule.points)


def has_same_steps(schedule: Schedule, sigmas: Sequence[float]) -> bool:
    """Tell whether a run has the schedule's number of steps over its range of noise levels, within half a step.

    A schedule does not state the level that its last step ends at: in a part of a run, that is not 0.
    """
    steps = len(sigmas) - 1
    before, after = progress_at(schedule, sigmas[0]), 1.0 - progress_at(schedule, sigmas[-1])
    last_step = abs(1.0 - 1.0 / steps - progress_at(schedule, sigmas[-2]))
    return steps == len(schedule.points) and max(before, min(after, last_step)) * steps < 0.5


def span_of(schedule: Schedule, sigmas: Sequence[float]) -> tuple[float, float]:
    """Return the progress at which a run of these noise levels begins and ends; 0 and 1 where they lie outside."""
    if not sigmas:
        return 0.0, 1.0
    start, end = progress_at(schedule, sigmas[0]), progress_at(schedule, sigmas[-1])
    return (start, end) if end - start >= MIN_SPAN else (0.0, 1.0)


def density_of(source: Sequence[float], schedule: Schedule, sigmas: Sequence[float]) -> list[float]:
    """Return for each step of a run the average of `source` over the progress that the step makes; at least 1e-3.

    source: a budget per step of the schedule. All steps of the run make equal progress in the part that it covers.
    """
    start, end = span_of(schedule, sigmas)
    steps = len(sigmas) - 1
    integral = [0.0]
    for budget in source:
        integral.append(integral[-1] + budget)

    def cumulative(progress: float) -> float:
        position = min(max(progress, 0.0), 1.0) * len(source)
        whole = min(int(position), len(source) - 1)
        return integral[whole] + (position - whole) * source[whole]

    edges = [start + (end - start) * i / steps for i in range(steps + 1)]
    return [
        max(1e-3, (cumulative(edges[i + 1]) - cumulative(edges[i])) / ((edges[i + 1] - edges[i]) * len(source)))
        for i in range(steps)
    ]


def smooth(budgets: Sequence[float], periods: int = SMOOTHED_OVER) -> list[float]:
    """Average out the pattern of budgets between the full steps at the start and at the end.

    periods: of the pattern, to either side of a step, in its average. Placement on a run's steps makes a new pattern;
    with two patterns, some skips would be too long and others too short.
    """
    head = count_leading_full_steps(budgets)
    tail = max(head, len(budgets) - max(1, count_leading_full_steps(budgets[::-1])))
    longest, run = 0, 0
    low = (min(budgets[head:tail], default=0.0) + max(budgets[head:tail], default=0.0)) / 2
    for budget in budgets[head:tail]:
        run = run + 1 if budget < low else 0
        longest = max(longest, run)
    reach = periods * (longest + 1) if longest else 0
    averaged = list(budgets)
    for i in range(head, tail):
        around = budgets[max(head, i - reach) : min(tail, i + reach + 1)]
        averaged[i] = sum(around) / len(around)
    return averaged


def count_leading_full_steps(budgets: Sequence[float]) -> int:
    """Count the full steps at the start."""
    return next((i for i, budget in enumerate(budgets) if budget < 1.0), len(budgets))


def sum_over_calls(budgets: Sequence[float], calls_per_step: Sequence[int]) -> float:
    """Return the sum of budgets over a run's model calls.

    `sum` will do here, though its last digit depends on Python's version: sums are compared within a tolerance.
    """
    return sum(b * w for b, w in zip(budgets, calls_per_step, strict=True))


def mean_budget(budgets: Sequence[float], calls_per_step: Sequence[int]) -> float:
    """Return the mean over the model calls of a run.

    Sums that decide something use `math.fsum`: `sum` rounds differently from Python 3.12 on, and a seed must find the
    same schedule everywhere.
    """
    return math.fsum(b * e for b, e in zip(budgets, calls_per_step, strict=True)) / sum(calls_per_step)


def place_full_steps(density: Sequence[float], number: int, tolerance: float = 0.0) -> list[float]:
    """Place `number` full steps among skipped ones, closer together where the density is larger.

    The density is scaled to a sum of `number`. Full steps stand where its running sum reaches 0.5, 1.5 and so on, less
    the tolerance.
    """

    def scaled(factor: float) -> list[float]:
        return [min(1.0, factor * value) for value in density]

    budgets: list[float] = []
    reached, placed = 0.0, 0
    for share in scaled(bisect_factor(scaled, [1] * len(density), number)):
        reached += share
        due = placed < number and reached >= placed + 0.5 - tolerance
        placed += due
        budgets.append(1.0 if due else 0.0)
    return budgets


def bisect_factor(budgets_at: Callable[[float], list[float]], calls_per_step: Sequence[int], total: float) -> float:
    """Find by bisection the factor whose budgets sum to the total, or come closest; no budget may fall as it grows."""
    low, high = 0.0, 2048.0
    for _ in range(80):
        middle = (low + high) / 2
        if sum_over_calls(budgets_at(middle), calls_per_step) < total:
            low = middle
        else:
            high = middle
    return high
