"""What steps computed in part cost beside whole ones, measured: never less than their tokens, often much more.

However few tokens a step computes, keys and values of all of them are read, tokens are chosen, and the full step before
it has kept its residuals. Budgets are held in this currency, so that no candidate takes longer than the whole steps
which its budget pays for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..candidate import Genome
from ..problem import Outcome
from .step_time import FULL, StepSeconds

ROUNDED_TO = 0.05  # so that a search does not depend on how its clock trembles
DRAWN_AGAIN = 20  # budgets that a pattern is drawn for until one is paid for
MIN_SPENT = 0.75  # of the budget; a pattern that leaves more has only its ends left


@dataclass(frozen=True)
class StepCost:
    """In full steps, a reuse step being free. floor: of a step in part of hardly any tokens."""

    floor: float = 0.0

    def of(self, budget: float) -> float:
        """Of one step."""
        return self.floor + (1.0 - self.floor) * budget if 0.0 < budget < FULL else budget

    def of_run(self, budgets: Sequence[float], evaluations: Sequence[int]) -> float:
        """Mean over the model calls, as a mean budget is."""
        return math.fsum(self.of(b) * e for b, e in zip(budgets, evaluations, strict=True)) / sum(evaluations)

    def largest_affordable(
        self, draw: Callable[[float], Genome], budget: float, evaluations: Sequence[int]
    ) -> Genome | None:
        """A pattern drawn for as large a mean as the budget pays for; None where nothing of it is left then."""
        for part in range(DRAWN_AGAIN, 0, -1):
            genome = draw(budget * part / DRAWN_AGAIN)
            cost = self.of_run(genome.budgets, evaluations)
            if not genome.whole and cost <= budget:
                return genome if cost > MIN_SPENT * budget else None
        return None


Runs = Iterable[tuple[Genome, Outcome]]


def measured(in_part: Runs, whole: Runs, evaluations: Sequence[int]) -> StepCost:
    """From runs with steps in part, and runs of whole steps beside them; these tell what full and reuse steps take.

    What the former took beyond their full and reuse steps is laid on their steps in part. All runs must come from the
    memo when a search is taken up again: it is to be led the same way.
    """
    known = StepSeconds()
    for genome, outcome in whole:
        known.add_steps(genome.budgets, _per_call(outcome, evaluations))
    reused = known.of(0.0)
    full = known.of(FULL) - reused
    paid, tokens, steps = 0.0, 0.0, 0.0
    for genome, outcome in in_part:
        own = StepSeconds()
        own.add_steps(genome.budgets, _per_call(outcome, evaluations))
        # Not the first step, in which memory and kernels are made ready.
        for budget, calls in list(zip(genome.budgets, evaluations, strict=True))[1 : outcome.steps]:
            if budget > 0.0:
                paid += calls * (own.of(budget) - reused - (full if budget == FULL else 0.0))
            if 0.0 < budget < FULL:
                tokens, steps = tokens + calls * budget, steps + calls
    if not known.has(FULL) or not full > 0.0 or not steps > tokens:
        return StepCost()
    floor = (paid / full - tokens) / (steps - tokens)
    return StepCost(min(1.0, max(0.0, round(floor / ROUNDED_TO) * ROUNDED_TO)))


def _per_call(outcome: Outcome, evaluations: Sequence[int]) -> list[float]:
    return [seconds / calls for seconds, calls in zip(outcome.seconds, evaluations, strict=False)]
