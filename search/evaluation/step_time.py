"""What a run will take, from what the steps of measured runs took: by kind of step, and for token steps by budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ..candidate import Genome
from ..problem import Outcome

FULL = 1.0


class StepSeconds:
    """Seconds of a step by its budget, learnt from outcomes.

    Medians, so that one hiccup does not count; the most recent runs only, so that a device that has warmed up or slowed
    down is known as it is.
    """

    def __init__(self, newest: int = 60):
        self._newest = newest
        self._seen: dict[float, list[float]] = {}

    def add(self, genome: Genome, outcome: Outcome) -> None:
        """Take a run's steps, but its first, in which memory and kernels are made ready."""
        self.add_steps(genome.budgets, outcome.seconds)

    def add_steps(self, budgets: Sequence[float], seconds: Sequence[float]) -> None:
        by_budget: dict[float, list[float]] = {}
        for budget, spent in list(zip(budgets, seconds, strict=False))[1:]:
            by_budget.setdefault(round(budget, 3), []).append(spent)
        for budget, values in by_budget.items():
            kept = self._seen.setdefault(budget, [])
            kept.append(median(values))
            del kept[: -self._newest]

    def has(self, budget: float) -> bool:
        """Whether such a step has been measured."""
        return round(budget, 3) in self._seen

    def of(self, budget: float) -> float:
        """Seconds of one step; between measured budgets along a line, beyond them by the nearest pair's line."""
        known = sorted((b, median(values)) for b, values in self._seen.items())
        exact = dict(known).get(round(budget, 3))
        if exact is not None:
            return exact
        if budget in (0.0, FULL) or not known:
            return budget * dict(known).get(FULL, 1.0)
        # A reuse step is no short token step: the line is drawn through steps in which the model runs.
        running = [point for point in known if point[0] > 0.0]
        if len(running) == 1:
            return running[0][1] * budget / running[0][0]
        above = next((i for i, (b, _) in enumerate(running) if b > budget), len(running) - 1)
        (b0, s0), (b1, s1) = running[max(above - 1, 0)], running[max(above, 1)]
        return max(0.0, s0 + (budget - b0) * (s1 - s0) / (b1 - b0))

    def of_run(self, genome: Genome, evaluations: Sequence[int]) -> float:
        """Seconds in the model; steps of several calls were measured as such, all but the last are taken alike."""
        most = max(evaluations)
        return math.fsum(self.of(b) * e / most for b, e in zip(genome.budgets, evaluations, strict=True))

    def of_dense(self, evaluations: Sequence[int]) -> float:
        return self.of(FULL) * sum(evaluations) / max(evaluations)
