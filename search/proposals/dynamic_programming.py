"""Step placement by dynamic programming: every interval between computed steps has a cost, the cheapest path wins.

An interval's cost depends on the computed steps before it, as forecasts build on them; we price each interval assuming
that the previous one had the same width. Costs add up only roughly, so the result is a candidate to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable

from ..candidate import Genome

MAX_SKIP = 8
Loss = Callable[[Genome], float]


def skip_costs(loss: Loss, like: Genome) -> dict[tuple[int, int], float]:
    """Return losses by `(step, next computed step)`. like: candidate whose forecast is used."""
    steps = len(like.budgets)
    costs: dict[tuple[int, int], float] = {}
    for start in range(steps - 1):
        for end in range(start + 1, min(steps, start + MAX_SKIP + 1)):
            # The part of the loss that is due to the interval before it is the cost of that interval.
            before = costs.get((max(0, start - (end - start)), start), 0.0)
            own = loss(Genome(_two_intervals(steps, start, end), like.forecast)) - before if end > start + 1 else 0.0
            costs[start, end] = max(0.0, own)
    return costs


def _two_intervals(steps: int, start: int, end: int) -> tuple[float, ...]:
    """Return budgets that skip the interval and one of the same width before it."""
    before = max(0, start - (end - start))
    idle = {*range(before + 1, start), *range(start + 1, end)}
    return tuple(0.0 if step in idle else 1.0 for step in range(steps))


def cheapest_paths(costs: dict[tuple[int, int], float], steps: int) -> dict[int, tuple[float, ...]]:
    """Return budgets by the number of computed steps, which include the first and the last."""
    best: dict[tuple[int, int], tuple[float, int]] = {(1, 0): (0.0, -1)}  # (computed, at step) → (cost, step before)
    for end in range(1, steps):
        for start in range(max(0, end - MAX_SKIP), end):
            for computed in range(1, start + 2):
                if (computed, start) not in best:
                    continue
                total = best[computed, start][0] + costs[start, end]
                known = best.get((computed + 1, end))
                if known is None or total < known[0]:
                    best[computed + 1, end] = (total, start)
    paths = {}
    for computed in range(2, steps + 1):
        if (computed, steps - 1) not in best:
            continue
        budgets, step, left = [0.0] * steps, steps - 1, computed
        while step >= 0:
            budgets[step] = 1.0
            step, left = best[left, step][1], left - 1
        paths[computed] = tuple(budgets)
    return paths


def cheapest_placement(loss: Loss, like: Genome) -> Genome | None:
    """Return the placement of as many computed steps as `like` has; None if intervals would exceed MAX_SKIP."""
    path = cheapest_paths(skip_costs(loss, like), len(like.budgets)).get(round(sum(like.budgets)))
    return Genome(path, like.forecast) if path is not None else None
