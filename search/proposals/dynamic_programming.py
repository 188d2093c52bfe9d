"""Where to compute, by dynamic programming: every gap between computed steps has a price, the cheapest path through
the steps wins, for every number of computed steps at once.

The price of a gap depends on how far the computed steps before it are apart, as forecasts build on them; it is taken
where they are as far apart as the gap is wide. Prices add up only roughly, so paths are seeds for what judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..candidate import Genome

MAX_SKIP = 8
Loss = Callable[[Genome], float]


def skip_costs(loss: Loss, like: Genome) -> dict[tuple[int, int], float]:
    """Loss by `(step, next computed step)`; like: whose way to forecast is priced."""
    steps = len(like.budgets)
    prices: dict[tuple[int, int], float] = {}
    for start in range(steps - 1):
        for end in range(start + 1, min(steps, start + MAX_SKIP + 1)):
            # What is not due to the gap, the wide steps before it, is the price of the gap before.
            before = prices.get((max(0, start - (end - start)), start), 0.0)
            priced = loss(Genome(_one_gap(steps, start, end), like.forecast)) - before if end > start + 1 else 0.0
            prices[start, end] = max(0.0, priced)
    return prices


def _one_gap(steps: int, start: int, end: int) -> tuple[float, ...]:
    """All computed but the gap, and one as wide before it."""
    before = max(0, start - (end - start))
    idle = {*range(before + 1, start), *range(start + 1, end)}
    return tuple(0.0 if step in idle else 1.0 for step in range(steps))


def cheapest_paths(prices: dict[tuple[int, int], float], steps: int) -> dict[int, tuple[float, ...]]:
    """Budgets of whole steps by how many are computed; the first and the last always are."""
    best: dict[tuple[int, int], tuple[float, int]] = {(1, 0): (0.0, -1)}  # (computed, at step) → (price, step before)
    for end in range(1, steps):
        for start in range(max(0, end - MAX_SKIP), end):
            for computed in range(1, start + 2):
                if (computed, start) not in best:
                    continue
                total = best[computed, start][0] + prices[start, end]
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


def cheapest(loss: Loss, like: Genome) -> Genome | None:
    """With as many computed steps as `like`; None where gaps would have to be too wide."""
    path = cheapest_paths(skip_costs(loss, like), len(like.budgets)).get(round(sum(like.budgets)))
    return Genome(path, like.forecast) if path is not None else None


def longest_skip(budgets: Sequence[float]) -> int:
    """The most steps in a row that are not computed."""
    longest = run = 0
    for budget in budgets:
        run = run + 1 if budget == 0.0 else 0
        longest = max(longest, run)
    return longest
