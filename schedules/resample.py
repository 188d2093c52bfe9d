"""A schedule on another run's noise levels: the rhythm is kept, and so is the mean budget.

Budgets are not interpolated: an anchor-and-probe pattern would blur into a uniform one. The source's local density
is followed by error diffusion over the budgets the source uses, and what is left over is settled on few steps.

A schedule of whole steps stays one, with as many steps as its budget pays for: computing a share of one more gained
nothing where it was measured, and needs a store per block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from .schedule import Schedule

SIGMA_TOLERANCE = 1e-4
LAST_STEP_FLOOR = 0.5
SETTLED = 0.005  # share of the budget's sum that may stay unsettled
LEAST_FRACTION = 0.02
# Periods of a rhythm to either side. Of whole steps, less would keep what rounding made of even gaps.
SMOOTHED_OVER, WHOLE_STEPS_SMOOTHED_OVER = 2, 6


def budgets_for(
    schedule: Schedule,
    sigmas: Sequence[float],
    *,
    evaluations: Sequence[int] | None = None,
    mean: float | None = None,
) -> list[float]:
    """Budgets for each step of a run.

    sigmas: the run's noise levels including the one it ends at, so one more than there are steps.
    evaluations: model calls per step (Heun: two for most), default one each; the mean is over calls.
    mean: mean budget wanted, default the schedule's own.

    Token steps come to the mean within the tolerance. Whole steps are as many as a mean that is asked for pays for;
    their own mean they come as near to as they can. The first step is always full and a step that ends at sigma 0 is
    computed, so on very short runs the mean can come out above what was asked.
    """
    steps = len(sigmas) - 1
    if steps < 1:
        return []
    weights = list(evaluations) if evaluations is not None else [1] * steps
    asked = schedule.mean_budget if mean is None else mean
    if asked >= 1.0:
        return [1.0] * steps
    total = asked * sum(weights)
    floors = _floors(sigmas, steps)
    own = schedule.budgets if _same_steps(schedule, sigmas) else ()
    if own and _is_settled(own, floors, weights, total):
        return list(own)  # where the steps stand was chosen for just this
    # One fraction is no rhythm: it met the budget where the steps did not come out even.
    if sum(0.0 < budget < 1.0 for budget in schedule.budgets) <= 1:
        # What was asked for is the most that is spent; its own mean is come as near to as whole steps can.
        most = total * (1.0 + SETTLED) if mean is not None else total + max(weights) / 2
        placed = _most_whole_steps(schedule, sigmas, weights, most)
        as_own = not schedule.has_fractions and sum(own) == sum(placed) and _weighted(own, weights) <= most
        return list(own) if as_own else placed
    density = _density_of(_smoothed(schedule.budgets), schedule, sigmas)
    factor = _solve(lambda f: _clipped(density, floors, f), weights, total)
    palette = {min(0.98, factor * b) if 0.0 < b < 1.0 else b for b in schedule.budgets} | {1.0}
    budgets = _diffuse(_clipped(density, floors, factor), floors, weights, sorted(palette))
    return _settle(budgets, floors, weights, total)


def _same_steps(schedule: Schedule, sigmas: Sequence[float]) -> bool:
    """Whether a run has the schedule's number of steps over its range of noise levels, give or take half a step."""
    steps = len(sigmas) - 1
    before, after = _progress_at(schedule, sigmas[0]), 1.0 - _progress_at(schedule, sigmas[-1])
    return steps == len(schedule.points) and max(before, after) * steps < 0.5


def _is_settled(budgets: Sequence[float], floors: Sequence[float], weights: Sequence[int], total: float) -> bool:
    """Whether budgets sum to the total already, with none below its floor."""
    above = all(budget >= floor for budget, floor in zip(budgets, floors, strict=True))
    return above and abs(_weighted(budgets, weights) - total) <= SETTLED * total


def _floors(sigmas: Sequence[float], steps: int) -> list[float]:
    floors = [0.0] * steps
    if sigmas[-1] <= SIGMA_TOLERANCE:
        floors[-1] = LAST_STEP_FLOOR
    floors[0] = 1.0
    return floors


def _progress_at(schedule: Schedule, sigma: float) -> float:
    """Where in the source run (0...1) a noise level lies; beyond its ends: the ends."""
    levels = [-s for s in (*schedule.sigmas, 0.0)]
    place = bisect_left(levels, -sigma - SIGMA_TOLERANCE)
    if place == 0:
        return 0.0
    if place == len(levels):
        return 1.0
    before, after = -levels[place - 1], -levels[place]
    return (place - 1 + (before - sigma) / (before - after)) / len(schedule.points)


def _density_of(source: Sequence[float], schedule: Schedule, sigmas: Sequence[float]) -> list[float]:
    """The average of `source`, budgets of the schedule's steps, over each of the run's; never 0, so that it can grow.

    The run's steps are spread evenly over the part of the schedule that they cover.
    """
    start, end = _progress_at(schedule, sigmas[0]), _progress_at(schedule, sigmas[-1])
    if end - start < 1e-6:
        start, end = 0.0, 1.0
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


def _full_ends(schedule: Schedule, sigmas: Sequence[float]) -> tuple[int, int]:
    """How many full steps a run begins and ends with: one where the source has one, else as large a part of it."""
    steps, source = len(sigmas) - 1, list(schedule.budgets)
    start, end = _progress_at(schedule, sigmas[0]), _progress_at(schedule, sigmas[-1])
    covered = max(end - start, 1e-6)
    head, tail = _full_run(source), _full_run(source[::-1])
    first = max(0.0, head / len(source) - start) / covered * steps if head > 1 else 0.0
    last = max(0.0, end - 1.0 + tail / len(source)) / covered * steps if tail > 1 else 0.0
    return max(1, round(first)), max(int(sigmas[-1] <= SIGMA_TOLERANCE), round(last))


def _full_run(budgets: Sequence[float]) -> int:
    """How many full steps come first."""
    return next((i for i, budget in enumerate(budgets) if budget < 1.0), len(budgets))


def _most_whole_steps(schedule: Schedule, sigmas: Sequence[float], weights: Sequence[int], most: float) -> list[float]:
    """As many whole steps as come to no more than `most` calls, placed as in the source."""
    density = _density_of(_without_ends(schedule.budgets), schedule, sigmas)
    ends = _full_ends(schedule, sigmas)
    placed: list[float] = []
    for number in range(min(len(density), int(most / max(1, min(weights)))), -1, -1):
        placed = _place_whole_steps(density, *ends, number)
        if _weighted(placed, weights) <= most:
            break
    return placed


def _place_whole_steps(density: Sequence[float], head: int, tail: int, wanted: int) -> list[float]:
    """Full steps at both ends, the rest of the `wanted` ones between them: each in the middle of its share of density.

    So the gaps are alike where the density is, also next to the ends, which error diffusion does not bring about.
    """
    steps = len(density)
    head = min(head, steps)
    tail = min(tail, steps - head, max(1, wanted - head))
    between = density[head : steps - tail]
    number = min(len(between), max(0, wanted - head - tail))
    share = _solve(lambda f: [min(1.0, f * value) for value in between], [1] * len(between), number)
    budgets, reached, placed = [1.0] * head, 0.0, 0
    for value in between:
        reached += min(1.0, share * value) if number else 0.0
        due = placed < number and reached >= placed + 0.5 - 1e-9
        placed += due
        budgets.append(1.0 if due else 0.0)
    return budgets + [1.0] * tail


def _without_ends(budgets: Sequence[float]) -> list[float]:
    """As `_smoothed`, the full steps at either end like their neighbours: what rounding their number leaves over is no
    reason for one more step next to them.
    """
    smooth = _smoothed(budgets, WHOLE_STEPS_SMOOTHED_OVER)
    head, tail = _full_run(budgets), _full_run(budgets[::-1])
    if head + tail >= len(budgets):
        return smooth
    middle = smooth[head : len(budgets) - tail]
    return [middle[0]] * head + middle + [middle[-1]] * tail


def _smoothed(budgets: Sequence[float], periods: int = SMOOTHED_OVER) -> list[float]:
    """Budgets with the rhythm averaged out between the full steps at the start and those at the end.

    Error diffusion makes the rhythm anew; left in, the two would beat against each other.
    """
    head = _full_run(budgets)
    tail = max(head, len(budgets) - max(1, _full_run(budgets[::-1])))
    longest, run = 0, 0
    low = (min(budgets[head:tail], default=0.0) + max(budgets[head:tail], default=0.0)) / 2
    for budget in budgets[head:tail]:
        run = run + 1 if budget < low else 0
        longest = max(longest, run)
    reach = periods * (longest + 1) if longest else 0
    smooth = list(budgets)
    for i in range(head, tail):
        around = budgets[max(head, i - reach) : min(tail, i + reach + 1)]
        smooth[i] = sum(around) / len(around)
    return smooth


def _weighted(budgets: Sequence[float], weights: Sequence[int]) -> float:
    return sum(b * w for b, w in zip(budgets, weights, strict=True))


def _clipped(density: Sequence[float], floors: Sequence[float], factor: float) -> list[float]:
    return [max(floor, min(1.0, factor * value)) for value, floor in zip(density, floors, strict=True)]


def _solve(budgets_at: Callable[[float], list[float]], weights: Sequence[int], total: float) -> float:
    """Bisection for the factor at which non-decreasing budgets sum to the total (or come closest)."""
    low, high = 0.0, 2048.0
    for _ in range(80):
        middle = (low + high) / 2
        if _weighted(budgets_at(middle), weights) < total:
            low = middle
        else:
            high = middle
    return high


def _diffuse(
    density: Sequence[float], floors: Sequence[float], weights: Sequence[int], palette: Sequence[float]
) -> list[float]:
    """Each step takes the palette's budget nearest to its density plus what earlier steps left over."""
    budgets, owed = [], 0.0
    for wanted, floor, weight in zip(density, floors, weights, strict=True):
        goal = wanted + owed / max(weight, 1)
        budget = max(floor, min(palette, key=lambda value: (abs(value - goal), value)))
        owed += weight * (wanted - budget)
        budgets.append(budget)
    return budgets


def _settle(budgets: list[float], floors: Sequence[float], weights: Sequence[int], total: float) -> list[float]:
    """Bring the sum to the total: first by scaling fractional budgets, then by one step of a whole-step rhythm."""
    tolerance = SETTLED * total
    if abs(_weighted(budgets, weights) - total) <= tolerance:
        return budgets
    if any(0.0 < b < 1.0 for b in budgets):
        given = budgets

        def scaled(factor: float) -> list[float]:
            return [
                max(floor, LEAST_FRACTION, min(1.0, factor * b)) if 0.0 < b < 1.0 else b
                for b, floor in zip(given, floors, strict=True)
            ]

        budgets = scaled(_solve(scaled, weights, total))
    while (left := total - _weighted(budgets, weights)) > tolerance:
        step = _middle_of_longest_gap(budgets)
        if step is None:
            break
        budgets[step] = min(1.0, left / max(weights[step], 1))
    while (left := total - _weighted(budgets, weights)) < -tolerance:
        step = _most_expendable(budgets, floors)
        if step is None:
            break
        budgets[step] = max(floors[step], budgets[step] + left / max(weights[step], 1))
        if budgets[step] < LEAST_FRACTION:
            budgets[step] = 0.0
    return budgets


def _middle_of_longest_gap(budgets: Sequence[float]) -> int | None:
    """The reuse step farthest from computed ones, earliest on ties."""
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
    """The reducible step whose neighbours compute most, latest on ties (early steps decide the layout).

    The last one only if there is no other: no step after it makes good what it misses.
    """
    last = len(budgets) - 1
    reducible = [i for i in range(1, len(budgets)) if budgets[i] > max(floors[i], 0.0)]
    if not reducible:
        return None
    following = [*budgets[1:], 0.0]
    return max(reducible, key=lambda i: (i != last, budgets[i - 1] + following[i], i))


def without_fractions(budgets: Sequence[float], weights: Sequence[int], start: int = 0) -> list[float]:
    """From step `start` on only full and reuse steps, at about the same mean and never above it by a step.

    For runs that cannot keep residuals per block. The last step is full if it was computed at all.
    """
    whole = list(budgets)
    last = len(whole) - 1
    owed = -(weights[last] * (1.0 - whole[last])) if last > start and whole[last] > 0.0 else 0.0
    for i in range(start, last + 1):
        if i == last and whole[i] > 0.0:
            whole[i] = 1.0
            continue
        owed += weights[i] * whole[i]
        whole[i] = 1.0 if owed >= weights[i] * (1.0 - SETTLED) else 0.0
        owed -= weights[i] * whole[i]
    return whole
