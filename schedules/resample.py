"""Places a schedule on another run's noise levels, with its pattern and its mean budget.

Budgets are not interpolated: a pattern of large and small ones would blur into a uniform one. Error diffusion over the
schedule's own budgets follows its local density, and the remainder is settled on few steps.

A step-skipping schedule stays one, with as many full steps as fit its budget: a partial step on top gained nothing
where it was measured, and needs a store per block.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..limits import ZERO_SIGMA
from .density import BUDGET_TOLERANCE, bisect_factor, density_of, progress_at, smoothed, weighted
from .schedule import Schedule
from .step_skipping import max_full_steps

LAST_STEP_FLOOR = 0.5
MIN_PARTIAL_BUDGET = 0.02


def budgets_for(
    schedule: Schedule,
    sigmas: Sequence[float],
    *,
    calls_per_step: Sequence[int] | None = None,
    mean: float | None = None,
) -> list[float]:
    """Return the budget of each step of a run.

    sigmas: the run's noise levels including the one it ends at, so one more than there are steps.
    calls_per_step: model calls per step (Heun: two for most), default one each; the mean is over calls.
    mean: mean budget wanted, default the schedule's own.

    Partial steps come to the mean within the tolerance. Of whole steps there are as many as fit a mean that is asked
    for, or come nearest to the schedule's own. On its own steps and at its own mean, which then is over steps, a
    schedule stays as it is. The first step is always full and a step that ends at sigma 0 is computed, so that on very
    short runs the mean can come out above the one asked for.
    """
    steps = len(sigmas) - 1
    if steps < 1:
        return []
    calls_per_step = list(calls_per_step) if calls_per_step is not None else [1] * steps
    wanted = schedule.mean_budget if mean is None else mean
    if wanted >= 1.0:
        return [1.0] * steps
    total = wanted * sum(calls_per_step)
    floors = _floors(sigmas, steps)
    own = schedule.budgets if _same_steps(schedule, sigmas) else ()
    if own and _is_above(own, floors) and (mean is None or _is_settled(own, floors, calls_per_step, total)):
        return list(own)  # its steps were placed for exactly this
    # A single partial step is no pattern: it met the budget where whole steps did not come out even.
    if sum(0.0 < budget < 1.0 for budget in schedule.budgets) <= 1:
        # A mean that is asked for is a ceiling; the schedule's own is only approached.
        most = total * (1.0 + BUDGET_TOLERANCE) if mean is not None else total + max(calls_per_step) / 2
        placed = max_full_steps(schedule, sigmas, calls_per_step, most)
        as_many = not schedule.has_partial_steps and sum(own) == sum(placed) and weighted(own, calls_per_step) <= most
        return list(own) if as_many and _is_above(own, floors) else placed
    density = density_of(smoothed(schedule.budgets), schedule, sigmas)
    factor = bisect_factor(lambda f: _clipped(density, floors, f), calls_per_step, total)
    palette = {min(0.98, factor * b) if 0.0 < b < 1.0 else b for b in schedule.budgets} | {1.0}
    budgets = _diffuse(_clipped(density, floors, factor), floors, calls_per_step, sorted(palette))
    return _settle(budgets, floors, calls_per_step, total)


def _same_steps(schedule: Schedule, sigmas: Sequence[float]) -> bool:
    """Tell whether a run has the schedule's number of steps over its range of noise levels, within half a step."""
    steps = len(sigmas) - 1
    before, after = progress_at(schedule, sigmas[0]), 1.0 - progress_at(schedule, sigmas[-1])
    return steps == len(schedule.points) and max(before, after) * steps < 0.5


def _is_settled(budgets: Sequence[float], floors: Sequence[float], calls_per_step: Sequence[int], total: float) -> bool:
    """Tell whether budgets sum to the total, with none below its floor."""
    return _is_above(budgets, floors) and abs(weighted(budgets, calls_per_step) - total) <= BUDGET_TOLERANCE * total


def _is_above(budgets: Sequence[float], floors: Sequence[float]) -> bool:
    return all(budget >= floor for budget, floor in zip(budgets, floors, strict=True))


def _floors(sigmas: Sequence[float], steps: int) -> list[float]:
    floors = [0.0] * steps
    if sigmas[-1] <= ZERO_SIGMA:
        floors[-1] = LAST_STEP_FLOOR
    floors[0] = 1.0
    return floors


def _clipped(density: Sequence[float], floors: Sequence[float], factor: float) -> list[float]:
    return [max(floor, min(1.0, factor * value)) for value, floor in zip(density, floors, strict=True)]


def _diffuse(
    density: Sequence[float], floors: Sequence[float], calls_per_step: Sequence[int], palette: Sequence[float]
) -> list[float]:
    """Give each step the palette's budget nearest to its density plus the carry of earlier steps."""
    budgets, carry = [], 0.0
    for wanted, floor, weight in zip(density, floors, calls_per_step, strict=True):
        goal = wanted + carry / max(weight, 1)
        budget = max(floor, min(palette, key=lambda value: (abs(value - goal), value)))
        carry += weight * (wanted - budget)
        budgets.append(budget)
    return budgets


def _settle(budgets: list[float], floors: Sequence[float], calls_per_step: Sequence[int], total: float) -> list[float]:
    """Bring the sum to the total: first by scaling partial budgets, then by changing single steps."""
    tolerance = BUDGET_TOLERANCE * total
    if abs(weighted(budgets, calls_per_step) - total) <= tolerance:
        return budgets
    if any(0.0 < b < 1.0 for b in budgets):
        given = budgets

        def scaled(factor: float) -> list[float]:
            return [
                max(floor, MIN_PARTIAL_BUDGET, min(1.0, factor * b)) if 0.0 < b < 1.0 else b
                for b, floor in zip(given, floors, strict=True)
            ]

        budgets = scaled(bisect_factor(scaled, calls_per_step, total))
    while (left := total - weighted(budgets, calls_per_step)) > tolerance:
        step = _middle_of_longest_gap(budgets)
        if step is None:
            break
        budgets[step] = min(1.0, left / max(calls_per_step[step], 1))
    while (left := total - weighted(budgets, calls_per_step)) < -tolerance:
        step = _most_expendable(budgets, floors)
        if step is None:
            break
        budgets[step] = max(floors[step], budgets[step] + left / max(calls_per_step[step], 1))
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


def _most_expendable(budgets: Sequence[float], floors: Sequence[float]) -> int | None:
    """Return the reducible step whose neighbours compute most, latest on ties: early steps decide the layout.

    The last one only if there is no other: no step after it corrects its error.
    """
    last = len(budgets) - 1
    reducible = [i for i in range(1, len(budgets)) if budgets[i] > max(floors[i], 0.0)]
    if not reducible:
        return None
    following = [*budgets[1:], 0.0]
    return max(reducible, key=lambda i: (i != last, budgets[i - 1] + following[i], i))
