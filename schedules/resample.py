"""Places a schedule on another run's noise levels, with its pattern and its mean budget.

Budgets are not interpolated: a pattern of large and small ones would blur into a uniform one. By error diffusion, each
step gets the one of the schedule's budgets that is nearest to the average there plus what earlier steps fell short of.
What the sum then lacks is added to few steps.

A step-skipping schedule stays one, with as many full steps as fit its budget, placed anew for the run (`placement`). A
partial step for the rest of the budget gained nothing where it was measured, and needs a tensor per block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..limits import ZERO_SIGMA
from .density import BUDGET_TOLERANCE, bisect_factor, density_of, has_same_steps, smooth, sum_over_calls
from .placement import SamplerSteps, place_steps
from .schedule import Schedule

Place = Callable[[float], Sequence[bool]]
"""place(most): the steps to compute with at most so many model calls."""

MIN_LAST_BUDGET = 0.5  # of a step that ends at sigma 0
MIN_PARTIAL_BUDGET = 0.02


def budgets_for(
    schedule: Schedule,
    sigmas: Sequence[float],
    *,
    calls_per_step: Sequence[int] | None = None,
    mean: float | None = None,
    place: Place | None = None,
) -> list[float]:
    """Return the budget of each step of a run.

    sigmas: the run's noise levels including the one it ends at, so one more than there are steps.
    calls_per_step: model calls per step (Heun: two for most), default one each; the mean is over calls.
    mean: mean budget asked for, default the schedule's own.
    place: places full steps where the schedule has no pattern for this run, default by Euler's weights.

    A schedule with two partial steps or more meets the mean within BUDGET_TOLERANCE. Any other gets the most full steps
    that do not exceed a mean asked for, or else the number nearest to its own mean. On its own steps a schedule stays
    as it is, if no mean or its own is asked for. The first step is always full, and the last has at least
    MIN_LAST_BUDGET if it ends at sigma 0: very short runs can therefore exceed the mean.
    """
    steps = len(sigmas) - 1
    if steps < 1:
        return []
    calls_per_step = list(calls_per_step) if calls_per_step is not None else [1] * steps
    wanted = schedule.mean_budget if mean is None else mean
    if wanted >= 1.0:
        return [1.0] * steps
    total = wanted * sum(calls_per_step)
    minima = _find_minima(sigmas, steps)
    own = schedule.budgets if has_same_steps(schedule, sigmas) and not schedule.is_for_any_run else ()
    if own and _is_above(own, minima) and (mean is None or _is_settled(own, minima, calls_per_step, total)):
        return list(own)  # its steps were placed for exactly this
    # A single partial step is no pattern: it was added where full steps alone did not meet the budget.
    if sum(0.0 < budget < 1.0 for budget in schedule.budgets) <= 1:
        # A mean that is asked for is a ceiling; the schedule's own is only approached.
        most = total * (1.0 + BUDGET_TOLERANCE) if mean is not None else total + max(calls_per_step) / 2
        place = place or partial(place_steps, SamplerSteps.of_euler(sigmas, calls_per_step), forecast=schedule.forecast)
        placed = [float(computed) for computed in place(most)]
        as_many = not schedule.has_partial_steps and sum(own) == sum(placed)
        fits = as_many and sum_over_calls(own, calls_per_step) <= most and _is_above(own, minima)
        return list(own) if fits else placed
    density = density_of(smooth(schedule.budgets), schedule, sigmas)
    factor = bisect_factor(lambda f: _clip(density, minima, f), calls_per_step, total)
    palette = {min(0.98, factor * b) if 0.0 < b < 1.0 else b for b in schedule.budgets} | {1.0}
    budgets = _diffuse(_clip(density, minima, factor), minima, calls_per_step, sorted(palette))
    return _settle(budgets, minima, calls_per_step, total)


def _is_settled(budgets: Sequence[float], minima: Sequence[float], calls_per_step: Sequence[int], total: float) -> bool:
    """Tell whether budgets sum to the total, with none below its minimum."""
    off = abs(sum_over_calls(budgets, calls_per_step) - total)
    return _is_above(budgets, minima) and off <= BUDGET_TOLERANCE * total


def _is_above(budgets: Sequence[float], minima: Sequence[float]) -> bool:
    return all(budget >= minimum for budget, minimum in zip(budgets, minima, strict=True))


def _find_minima(sigmas: Sequence[float], steps: int) -> list[float]:
    """Return the least budget of each step."""
    minima = [0.0] * steps
    if sigmas[-1] <= ZERO_SIGMA:
        minima[-1] = MIN_LAST_BUDGET
    minima[0] = 1.0
    return minima


def _clip(density: Sequence[float], minima: Sequence[float], factor: float) -> list[float]:
    return [max(minimum, min(1.0, factor * value)) for value, minimum in zip(density, minima, strict=True)]


def _diffuse(
    density: Sequence[float], minima: Sequence[float], calls_per_step: Sequence[int], palette: Sequence[float]
) -> list[float]:
    """Give each step the palette's budget nearest to its density plus the carry of earlier steps."""
    budgets, carry = [], 0.0
    for wanted, minimum, weight in zip(density, minima, calls_per_step, strict=True):
        goal = wanted + carry / max(weight, 1)
        budget = max(minimum, min(palette, key=lambda value: (abs(value - goal), value)))
        carry += weight * (wanted - budget)
        budgets.append(budget)
    return budgets


def _settle(budgets: list[float], minima: Sequence[float], calls_per_step: Sequence[int], total: float) -> list[float]:
    """Bring the sum to the total: first by scaling partial budgets, then by changing single steps."""
    tolerance = BUDGET_TOLERANCE * total
    if abs(sum_over_calls(budgets, calls_per_step) - total) <= tolerance:
        return budgets
    if any(0.0 < b < 1.0 for b in budgets):
        given = budgets

        def scaled(factor: float) -> list[float]:
            return [
                max(minimum, MIN_PARTIAL_BUDGET, min(1.0, factor * b)) if 0.0 < b < 1.0 else b
                for b, minimum in zip(given, minima, strict=True)
            ]

        budgets = scaled(bisect_factor(scaled, calls_per_step, total))
    while (left := total - sum_over_calls(budgets, calls_per_step)) > tolerance:
        step = _middle_of_longest_gap(budgets)
        if step is None:
            break
        budgets[step] = min(1.0, left / max(calls_per_step[step], 1))
    while (left := total - sum_over_calls(budgets, calls_per_step)) < -tolerance:
        step = _most_expendable(budgets, minima)
        if step is None:
            break
        budgets[step] = max(minima[step], budgets[step] + left / max(calls_per_step[step], 1))
        if budgets[step] < MIN_PARTIAL_BUDGET:
            budgets[step] = 0.0
    return budgets


def _middle_of_longest_gap(budgets: Sequence[float]) -> int | None:
    """Return the skipped step farthest from computed ones, earliest on ties; None without skipped steps."""
    best, best_length, start = None, 0, None
    for i, budget in enumerate([*budgets, 1.0]):
        if budget == 0.0:
            start = i if start is None else start
        elif start is not None:
            if i - start > best_length:
                best, best_length = (start + i - 1) // 2, i - start
            start = None
    return best


def _most_expendable(budgets: Sequence[float], minima: Sequence[float]) -> int | None:
    """Return the reducible step whose neighbours compute most, latest on ties: early steps decide the layout.

    The last one only if there is no other: no step after it corrects its error.
    """
    last = len(budgets) - 1
    reducible = [i for i in range(1, len(budgets)) if budgets[i] > minima[i]]
    if not reducible:
        return None
    following = [*budgets[1:], 0.0]
    return max(reducible, key=lambda i: (i != last, budgets[i - 1] + following[i], i))
