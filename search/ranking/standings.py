"""Standings of one budget: evaluated candidates, what they are expected to gain, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.evaluator import Evaluation
from ..evaluation.posterior_gain import PRIOR_STD_DB, beats_baseline, posterior_gain, significantly_worse
from ..evaluation.step_cost import StepCost
from ..problem.candidate import Genome
from ..problem.losses import TYPICAL_STD_DB, mean_psnr
from .gain_prior import GainPrior

NOTICEABLE_DB = 0.05  # gain over the best so far that a new best needs

Gain = tuple[float, float]  # expected gain in dB and its standard deviation


@dataclass(frozen=True)
class ProxyResult:
    """Result on small clips. found: candidates to run in full size, best first; gains: over the baseline."""

    found: tuple[Genome, ...]
    gains: dict[Genome, Gain]


class Standings:
    """Candidates of one budget.

    complete: candidates evaluated on all cases; partial: on the first ones; baseline: evaluation of the schedule that
    one has without a search, None until it was run; best: None until a candidate was evaluated on all cases.
    """

    def __init__(self, budget: float, calls_per_step: Sequence[int], prior: GainPrior, step_cost: StepCost | None):
        """calls_per_step: model calls per step; step_cost: None if it is to be measured."""
        self.budget, self.prior = budget, prior
        self.step_cost, self.is_cost_given = step_cost or StepCost(), step_cost is not None
        self.complete: dict[Genome, Evaluation] = {}
        self.partial: dict[Genome, Evaluation] = {}
        self.baseline: Evaluation | None = None
        self.best: Evaluation | None = None
        self._calls_per_step = calls_per_step
        self._proxy: ProxyResult | None = None

    def fits_budget(self, genome: Genome) -> bool:
        """Tell whether a run takes no longer than the full steps that the budget allows."""
        return self.step_cost.fits_budget(genome, self._calls_per_step, self.budget)

    def add_partial(self, evaluated: Sequence[Evaluation]) -> None:
        """Add candidates evaluated on the first cases."""
        self.partial.update({each.genome: each for each in evaluated})

    def add(self, evaluated: Sequence[Evaluation]) -> None:
        """Add candidates evaluated on all cases; aborted ones are dropped."""
        for each in evaluated:
            if each.genome == self.prior.baseline and self.baseline is None:
                self.baseline = each
            if each.aborted:
                continue
            self.complete[each.genome] = each
            if self.fits_budget(each.genome) and self._is_new_best(each):
                self.best = each

    def add_proxy_result(self, result: ProxyResult) -> None:
        """Use gains found on small clips as priors of these candidates."""
        self._proxy = result

    def learn_step_cost(self, step_cost: StepCost) -> None:
        """Use a measured cost of partial steps, unless one was given; choose again if the best no longer fits."""
        if self.is_cost_given:
            return
        self.step_cost = step_cost
        if self.best is not None and not self.fits_budget(self.best.genome):
            self.best = None
            self.add(list(self.complete.values()))

    def expected_gain(self, evaluation: Evaluation) -> float:
        """Return the posterior gain over the baseline in dB; 0 for the baseline."""
        if self.baseline is None or evaluation.genome == self.baseline.genome:
            return 0.0
        gain = self._proxy.gains.get(evaluation.genome) if self._proxy is not None else None
        prior, prior_std = gain or (self.prior.of(evaluation.genome), PRIOR_STD_DB)
        return posterior_gain(evaluation.losses, self.baseline.losses, prior, prior_std)

    def leaders(self, count: int) -> list[Evaluation]:
        """Return the candidates evaluated on all cases with the largest expected gains."""
        return sorted(self.complete.values(), key=self.expected_gain, reverse=True)[:count]

    def may_win(self, evaluation: Evaluation) -> bool:
        """Tell whether more runs of a candidate may make it the best; never after an aborted run.

        They may if its PSNR on its cases so far is not clearly below that of the best on the same. One from small clips
        must be expected to gain over the baseline instead.
        """
        if evaluation.aborted:
            return False
        if self._is_from_proxy(evaluation.genome):
            return self.expected_gain(evaluation) > 0.0
        count = len(evaluation.losses)
        slack = TYPICAL_STD_DB / math.sqrt(count)
        return self.best is None or evaluation.score > mean_psnr(self.best.losses[:count]) - slack

    def results(self) -> list[Evaluation]:
        """Return the candidates within the budget that were run on all cases, or else the one that was run on most."""
        complete = [each for each in self.complete.values() if self.fits_budget(each.genome)]
        if complete:
            return complete
        partial = [each for each in self.partial.values() if not each.aborted and self.fits_budget(each.genome)]
        return sorted(partial, key=lambda each: (len(each.losses), each.score))[-1:]

    def _is_new_best(self, evaluation: Evaluation) -> bool:
        """Tell whether it gains most and beats the baseline or, from small clips, is not significantly worse."""
        if self.best is None or self.baseline is None:
            return self.best is None
        losses = evaluation.losses, self.baseline.losses
        from_proxy = self._is_from_proxy(evaluation.genome)
        stands = not significantly_worse(*losses) if from_proxy else beats_baseline(*losses)
        return stands and self.expected_gain(evaluation) - self.expected_gain(self.best) >= NOTICEABLE_DB

    def _is_from_proxy(self, genome: Genome) -> bool:
        return self._proxy is not None and genome in self._proxy.found
