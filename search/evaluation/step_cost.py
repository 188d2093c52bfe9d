"""Cost of partial steps in full steps, measured: at least their share of tokens, often much more.

However few tokens a step computes, it reads keys and values of all of them, selects tokens, and needs residuals that
the full step before it has stored. A candidate fits a budget if its cost does: no candidate then takes longer than the
full steps that the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...schedules import mean_budget
from ..problem.candidate import Genome
from ..problem.runner import Outcome
from .step_time import FULL, StepSeconds

ROUNDED_TO = 0.05  # so that small variations of the clock do not change a search
MAX_TRIES = 20  # smaller budgets that a pattern is made for until it fits
MAX_OVERSPEND = 1.005  # cost over budget that still fits
MIN_USED = 0.75  # of the budget; a pattern that uses less is hardly more than the run's first and last step

Runs = Iterable[tuple[Genome, Outcome]]


@dataclass(frozen=True)
class StepCost:
    """Costs in full steps; skipped ones cost 0. partial_step_overhead: cost of a partial step of hardly any tokens."""

    partial_step_overhead: float = 0.0

    def of(self, budget: float) -> float:
        """Return the cost of one step."""
        overhead = self.partial_step_overhead
        return overhead + (1.0 - overhead) * budget if 0.0 < budget < FULL else budget

    def of_run(self, budgets: Sequence[float], calls_per_step: Sequence[int]) -> float:
        """Return the mean cost over the model calls of a run, comparable to a mean budget."""
        return mean_budget([self.of(budget) for budget in budgets], calls_per_step)

    def fits_budget(self, genome: Genome, calls_per_step: Sequence[int], budget: float) -> bool:
        """Tell whether a run takes no longer than the full steps that the budget allows."""
        return self.of_run(genome.budgets, calls_per_step) <= budget * MAX_OVERSPEND

    def largest_affordable(
        self, pattern: Callable[[float], Genome], budget: float, calls_per_step: Sequence[int]
    ) -> Genome | None:
        """Return the pattern at the largest mean budget whose cost fits; None if hardly anything of it remains.

        pattern: makes a candidate for a mean budget.
        """
        for part in range(MAX_TRIES, 0, -1):
            genome = pattern(budget * part / MAX_TRIES)
            cost = self.of_run(genome.budgets, calls_per_step)
            if genome.has_partial_steps and cost <= budget:
                return genome if cost > MIN_USED * budget else None
        return None


def measure_step_cost(partial_runs: Runs, full_runs: Runs, calls_per_step: Sequence[int]) -> StepCost:
    """Measure the overhead of partial steps; 0 without runs that show it.

    partial_runs: of candidates with partial steps; their time beyond that of their full and skipped steps is that of
    partial steps. full_runs: of step-skipping candidates, for the time of full and skipped steps.
    """
    known = StepSeconds()
    for genome, outcome in full_runs:
        known.add_steps(genome.budgets, _seconds_per_call(outcome, calls_per_step))
    skipped = known.of(0.0)
    full = known.of(FULL) - skipped
    spent, tokens, steps = 0.0, 0.0, 0.0
    for genome, outcome in partial_runs:
        own = StepSeconds()
        own.add_steps(genome.budgets, _seconds_per_call(outcome, calls_per_step))
        # Without the first step, which also prepares memory and kernels.
        for budget, calls in list(zip(genome.budgets, calls_per_step, strict=True))[1 : outcome.steps]:
            if budget > 0.0:
                spent += calls * (own.of(budget) - skipped - (full if budget == FULL else 0.0))
            if 0.0 < budget < FULL:
                tokens, steps = tokens + calls * budget, steps + calls
    if not known.has(FULL) or not full > 0.0 or not steps > tokens:
        return StepCost()
    overhead = (spent / full - tokens) / (steps - tokens)
    return StepCost(min(1.0, max(0.0, round(overhead / ROUNDED_TO) * ROUNDED_TO)))


def _seconds_per_call(outcome: Outcome, calls_per_step: Sequence[int]) -> list[float]:
    return [seconds / calls for seconds, calls in zip(outcome.seconds, calls_per_step, strict=False)]
