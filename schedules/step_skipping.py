"""Step-skipping schedules on other runs: as many full steps as fit a budget, the others skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from ..limits import ZERO_SIGMA
from .density import (
    BUDGET_TOLERANCE,
    MIN_SPAN,
    count_leading_full_steps,
    density_of,
    place_full_steps,
    progress_at,
    smooth,
    sum_over_calls,
)
from .schedule import Schedule

PERIODS_SMOOTHED = 6  # to either side; over fewer, skips that differ by rounding alone would not average out


def place_most_full_steps(
    schedule: Schedule, sigmas: Sequence[float], calls_per_step: Sequence[int], most: float
) -> list[float]:
    """Place as many full steps as take at most `most` model calls, closer together where the schedule's are."""
    density = density_of(_smooth_without_ends(schedule.budgets), schedule, sigmas)
    ends = _count_full_ends(schedule, sigmas)
    placed: list[float] = []
    # No placement has more full steps than the steps of the fewest calls would allow.
    affordable = sum(spent <= most for spent in accumulate(sorted(calls_per_step)))
    for number in range(min(len(density), affordable), -1, -1):
        placed = _place_with_ends(density, *ends, number)
        if sum_over_calls(placed, calls_per_step) <= most:
            break
    return placed


def _count_full_ends(schedule: Schedule, sigmas: Sequence[float]) -> tuple[int, int]:
    """Count the full steps at a run's start and end: 1 if the schedule has at most 1 there, else the same share."""
    steps, source = len(sigmas) - 1, list(schedule.budgets)
    # Not by `span_of`, which takes a run outside the schedule's noise levels to cover all of them.
    start, end = progress_at(schedule, sigmas[0]), progress_at(schedule, sigmas[-1])
    covered = max(end - start, MIN_SPAN)
    head, tail = count_leading_full_steps(source), count_leading_full_steps(source[::-1])
    first = max(0.0, head / len(source) - start) / covered * steps if head > 1 else 0.0
    last = max(0.0, end - 1.0 + tail / len(source)) / covered * steps if tail > 1 else 0.0
    return max(1, round(first)), max(int(sigmas[-1] <= ZERO_SIGMA), round(last))


def _place_with_ends(density: Sequence[float], head: int, tail: int, wanted: int) -> list[float]:
    """Place `wanted` full steps: `head` and `tail` of them at the ends of the run, the others by the density.

    Where the density is constant all skips are about equally long, also next to the ends. Error diffusion would make
    some of them a step longer or shorter than their neighbours.
    """
    steps = len(density)
    head = min(head, steps, max(1, wanted - min(1, tail)))
    tail = min(tail, steps - head, max(1, wanted - head))
    between = density[head : steps - tail]
    number = min(len(between), max(0, wanted - head - tail))
    return [1.0] * head + place_full_steps(between, number, tolerance=1e-9) + [1.0] * tail


def _smooth_without_ends(budgets: Sequence[float]) -> list[float]:
    """Smooth budgets, and give the full steps at either end the average next to them.

    The ends are placed on their own, in a rounded number. What rounding leaves would add a full step next to them.
    """
    averaged = smooth(budgets, PERIODS_SMOOTHED)
    head, tail = count_leading_full_steps(budgets), count_leading_full_steps(budgets[::-1])
    if head + tail >= len(budgets):
        return averaged
    middle = averaged[head : len(budgets) - tail]
    return [middle[0]] * head + middle + [middle[-1]] * tail


def without_partial_steps(budgets: Sequence[float], calls_per_step: Sequence[int], start: int = 0) -> list[float]:
    """Turn partial steps from `start` on into full and skipped ones, at about the same mean, at most a step above.

    For runs that cannot keep residuals per block. The first step is full, and the last if it was computed at all. What
    the last costs more is saved on all partial steps alike: saved on the first of them, these would leave a gap.
    """
    whole, last = list(budgets), len(budgets) - 1
    ends_full = whole[last] > 0.0
    partial = {i for i in range(max(start, 1), last + (not ends_full)) if 0.0 < whole[i] < 1.0}
    spent = sum(calls_per_step[i] * whole[i] for i in partial)
    of_last = calls_per_step[last] * (1.0 - whole[last]) if last > start and ends_full else 0.0
    one_step = max((calls_per_step[i] for i in partial), default=1)
    affordable = one_step * math.floor(max(0.0, spent - of_last) / one_step + BUDGET_TOLERANCE)
    # Half a step ahead: a full step stands in the middle of the partial ones whose cost it takes.
    carry = 0.5 * one_step if partial else 0.0
    for i in range(start, last + 1):
        if i == 0 or (i == last and ends_full):
            whole[i] = 1.0  # before the first there is nothing to forecast from
            continue
        share = affordable / spent if i in partial else 1.0
        carry += calls_per_step[i] * whole[i] * share
        whole[i] = 1.0 if carry >= calls_per_step[i] * (1.0 - BUDGET_TOLERANCE) else 0.0
        carry -= calls_per_step[i] * whole[i]
    return whole
