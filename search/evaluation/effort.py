"""Account of a search's effort in dense-run equivalents, over all of its evaluators."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..problem.runner import SamplingConfig
from .evaluator import Evaluator

EFFORT_PER_DENSE_RUN = 4.0  # a quarter of the effort goes into dense runs, but there are MIN_CASES in any case
MIN_CASES = 2


def count_cases(setting: SamplingConfig, effort: float, dense_runs: int | None = None) -> int:
    """Return how many cases to search on: `dense_runs` (None: effort / EFFORT_PER_DENSE_RUN), MIN_CASES at least."""
    most = round(effort / EFFORT_PER_DENSE_RUN) if dense_runs is None else dense_runs
    return min(setting.cases, max(MIN_CASES, most))


class Effort:
    """Effort that is planned and spent. planned: dense-run equivalents; the clock starts at construction."""

    def __init__(self, evaluators: Sequence[Evaluator], planned: float):
        self._evaluators, self.planned = tuple(evaluators), planned
        self._began = time.monotonic()

    @property
    def cost(self) -> float:
        """Dense-run equivalents spent, those of cached outcomes included."""
        return sum(each.cost for each in self._evaluators)

    @property
    def runs(self) -> int:
        """Candidate runs used, proxy cases included."""
        return sum(len(each.outcomes) for each in self._evaluators)

    @property
    def cache_hits(self) -> int:
        """Number of these runs that were taken from the run log."""
        return sum(each.cache_hits for each in self._evaluators)

    def seconds_left(self) -> float | None:
        """Estimate the remaining seconds from the pace of new runs; None before the first."""
        fresh = sum(each.fresh_cost for each in self._evaluators)
        if not fresh:
            return None
        pace = (time.monotonic() - self._began) / fresh
        return max(0.0, self.planned - self.cost) * pace
