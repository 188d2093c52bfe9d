"""Predicted seconds of a run, from measured seconds of steps by their budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ..problem.candidate import Genome
from ..problem.runner import Outcome

FULL = 1.0
MAX_RUNS = 60  # of each budget that count, the newest


class StepSeconds:
    """Seconds of a step by its budget, from outcomes.

    Medians, so that single outliers do not count; of the newest runs, so that it follows a device that warms up or
    slows down.
    """

    def __init__(self) -> None:
        self._seconds: dict[float, list[float]] = {}

    def add(self, genome: Genome, outcome: Outcome) -> None:
        """Add a run's steps without the first, which also prepares memory and kernels."""
        self.add_steps(genome.budgets, outcome.seconds)

    def add_steps(self, budgets: Sequence[float], seconds: Sequence[float]) -> None:
        """Add the steps of a run, without the first."""
        by_budget: dict[float, list[float]] = {}
        for budget, spent in list(zip(budgets, seconds, strict=False))[1:]:
            by_budget.setdefault(round(budget, 3), []).append(spent)
        for budget, values in by_budget.items():
            kept = self._seconds.setdefault(budget, [])
            kept.append(median(values))
            del kept[:-MAX_RUNS]

    def has(self, budget: float) -> bool:
        """Tell whether a step of this budget has been measured."""
        return round(budget, 3) in self._seconds

    def of(self, budget: float) -> float:
        """Return the seconds of one step, on the line through the nearest two measured budgets if its own was not."""
        known = sorted((b, median(values)) for b, values in self._seconds.items())
        exact = dict(known).get(round(budget, 3))
        if exact is not None:
            return exact
        if budget in (0.0, FULL) or not known:
            return budget * dict(known).get(FULL, 1.0)
        # Skipped steps are left out: they do not run the model.
        running = [point for point in known if point[0] > 0.0]
        if len(running) == 1:
            return running[0][1] * budget / running[0][0]
        above = next((i for i, (b, _) in enumerate(running) if b > budget), len(running) - 1)
        (b0, s0), (b1, s1) = running[max(above - 1, 0)], running[max(above, 1)]
        return max(0.0, s0 + (budget - b0) * (s1 - s0) / (b1 - b0))

    def of_run(self, genome: Genome, calls_per_step: Sequence[int]) -> float:
        """Return a run's seconds in the model. Measured steps have the most calls; others get their calls' share."""
        most = max(calls_per_step)
        return math.fsum(self.of(b) * e / most for b, e in zip(genome.budgets, calls_per_step, strict=True))

    def of_dense(self, calls_per_step: Sequence[int]) -> float:
        return self.of(FULL) * sum(calls_per_step) / max(calls_per_step)
