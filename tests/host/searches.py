"""Made-up results of searches, for plots, texts and saved files."""

from __future__ import annotations

from collections.abc import Sequence

from astraea.schedules import Schedule, flow_sigmas, periodic
from astraea.search.problem.result import FoundSchedule, HistoryPoint, SearchResult

STEPS = 30
DENSE_SECONDS = 60.0


def found(budget: float, psnr: float, *, is_baseline: bool = False, name: str = "candidate") -> FoundSchedule:
    """A step-skipping schedule, `1 / budget` times as fast."""
    every = max(2, round(1 / budget))
    schedule = periodic(name, [1.0] + [0.0] * (every - 1), flow_sigmas(STEPS))
    loss = 10 ** (-psnr / 10)
    return FoundSchedule(schedule, budget, loss, (loss, loss), DENSE_SECONDS * budget, 1 / budget, is_baseline)


def partial(budget: float, psnr: float) -> FoundSchedule:
    """A schedule with partial steps."""
    points = tuple((sigma, max(0.0, 1.0 - step / 20)) for step, sigma in enumerate(flow_sigmas(STEPS)))
    loss = 10 ** (-psnr / 10)
    return FoundSchedule(Schedule("part", points), budget, loss, (loss,), DENSE_SECONDS * budget, 1 / budget, False)


def result(budgets: Sequence[float] = (0.5, 0.4, 0.3), *, finished: bool = True) -> SearchResult:
    """A search that found schedules a little better than the baselines."""
    best = tuple(found(budget, 20 + 30 * budget) for budget in budgets)
    baselines = tuple(found(budget, 18 + 29 * budget, is_baseline=True, name="evenly") for budget in budgets)
    tried = tuple(
        (DENSE_SECONDS * (budget - 0.01 * (number % 4)), 10 ** (-(21 + 27 * budget - number % 7) / 10))
        for budget in budgets
        for number in range(20)
    )
    history = tuple(
        HistoryPoint(4 + 8 * place + 2 * number, budget, 10 ** (-(18 + 29 * budget + 0.4 * number) / 10))
        for place, budget in enumerate(budgets)
        for number in range(4)
    )
    sensitivity = (0.0, *(10 ** (-(30 + 20 * abs(step - 20) / 20) / 10) for step in range(1, STEPS)))
    cost = 6.0 + 8 * len(budgets)
    front = tuple(sorted(best, key=lambda each: each.seconds))
    return SearchResult(best, front, baselines, tried, history, sensitivity, DENSE_SECONDS, cost, finished)


NOTHING = SearchResult((), (), (), (), (), (), 0.0, 0.0, False)
