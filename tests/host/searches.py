"""Results of searches as they could have come out, for what draws, tells and saves them."""

from __future__ import annotations

from collections.abc import Sequence

from astraea.schedules import Schedule, flow_sigmas, periodic
from astraea.search.result import FoundSchedule, HistoryPoint, Result

STEPS = 30
DENSE_SECONDS = 60.0


def found(budget: float, psnr: float, *, baselines: bool = False, name: str = "candidate") -> FoundSchedule:
    """A schedule of whole steps, `1 / budget` times as fast."""
    every = max(2, round(1 / budget))
    schedule = periodic(name, [1.0] + [0.0] * (every - 1), flow_sigmas(STEPS), family="wan")
    loss = 10 ** (-psnr / 10)
    return FoundSchedule(schedule, budget, loss, (loss, loss), DENSE_SECONDS * budget, 1 / budget, baselines)


def partial(budget: float, psnr: float) -> FoundSchedule:
    """A schedule with steps that are computed in part."""
    points = tuple((sigma, max(0.0, 1.0 - step / 20)) for step, sigma in enumerate(flow_sigmas(STEPS)))
    loss = 10 ** (-psnr / 10)
    return FoundSchedule(Schedule("part", points), budget, loss, (loss,), DENSE_SECONDS * budget, 1 / budget, False)


def result(budgets: Sequence[float] = (0.5, 0.4, 0.3), *, finished: bool = True) -> Result:
    """A search for these budgets that found something a little better than the hand-made schedules."""
    best = tuple(found(budget, 20 + 30 * budget) for budget in budgets)
    baselines = tuple(found(budget, 18 + 29 * budget, baselines=True, name="evenly") for budget in budgets)
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
    spent = 6.0 + 8 * len(budgets)
    front = tuple(sorted(best, key=lambda each: each.seconds))
    return Result(best, front, baselines, tried, history, sensitivity, DENSE_SECONDS, spent, finished)


NOTHING = Result((), (), (), (), (), (), 0.0, 0.0, False)
