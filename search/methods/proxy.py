"""Multi-fidelity search: step placements and forecast settings are first compared on small clips.

Gains differ by several dB between cases, so comparing placements takes hundreds of runs. Small clips allow so many, as
one has a twelfth of the tokens, and they rank schedules as full-size clips do. The best are then run in full size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ...schedules import DEFAULT_MODE
from ..evaluation.evaluator import Evaluator
from ..evaluation.posterior_gain import posterior_gain, posterior_std
from ..problem.candidate import Genome
from ..proposals.step_placements import step_placements
from ..ranking.forecast_priors import expected_forecast_gain, initial_forecasts
from ..ranking.standings import Gain, ProxyResult

MIN_CASES, MAX_CASES = 12, 128
# Of each round: share of the cases that candidates have been run on by its end, and number of candidates that go on.
PLACEMENT_ROUNDS = ((0.15, 7), (0.4, 3), (1.0, 1))
FORECAST_ROUNDS = ((0.4, 2), (1.0, 1))
BASELINE_SHARE = 0.4  # of the cases that the baseline is run on
RUNS_PER_CASE = 10  # estimate of the candidate runs per small clip, for each budget
TRANSFERRED_SHARE = 0.5  # of a placement's gain on small clips, expected in full size
MIN_PROXY_GAIN_DB = 1.0  # of a placement on small clips; a smaller gain may not hold in full size
PLACEMENT_STD_DB, FORECAST_STD_DB = 1.5, 0.7  # standard deviation of true gains around the prior


class ProxySearch:
    """Search on small clips. evaluator: of small clips, all cases of which are used."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator, self.cases = evaluator, evaluator.setting.cases

    def run(self, baseline: Genome, fits_budget: Callable[[Genome], bool]) -> ProxyResult | None:
        """Compare placements of as many steps as the baseline computes, then forecasts on the best placement.

        Return None if there is no other placement.
        """
        if baseline.mode != DEFAULT_MODE:
            return None
        first, *others = dict.fromkeys((*initial_forecasts(self.evaluator.setting), baseline.forecast))
        same_steps = replace(baseline, forecast=first)
        placements = list(filter(fits_budget, step_placements(same_steps)))
        if not placements:
            return None
        placed = self._best_of(placements, same_steps, PLACEMENT_ROUNDS, PLACEMENT_STD_DB)
        if self._gain(placed, same_steps, self.cases, PLACEMENT_STD_DB)[0] < MIN_PROXY_GAIN_DB:
            placed = same_steps
        forecasts = [replace(placed, forecast=forecast) for forecast in others]
        best = self._best_of(forecasts, placed, FORECAST_ROUNDS, FORECAST_STD_DB)
        self._run([baseline], range(round(BASELINE_SHARE * self.cases)))
        gains = {same_steps: self._gain(same_steps, baseline, self.cases, FORECAST_STD_DB)}
        for genome in placements:
            own = self._gain(genome, same_steps, self.cases, PLACEMENT_STD_DB)
            gains[genome] = _add(gains[same_steps], own, TRANSFERRED_SHARE)
        for genome in forecasts:
            gains[genome] = _add(gains[placed], self._gain(genome, placed, self.cases, FORECAST_STD_DB))
        found = (best, placed, replace(baseline, forecast=best.forecast))
        return ProxyResult(tuple(genome for genome in dict.fromkeys(found) if genome != baseline), gains)

    def _best_of(
        self, genomes: Sequence[Genome], reference: Genome, rounds: Sequence[tuple[float, int]], prior_std: float
    ) -> Genome:
        """Return the best by successive halving, where every round adds cases; the reference if none is better."""
        running, first = list(dict.fromkeys(genomes)), 0
        for share, kept in rounds:
            last = min(self.cases, max(first + 1, round(share * self.cases)))
            self._run([reference, *running], range(first, last))
            gains = {genome: self._gain(genome, reference, last, prior_std)[0] for genome in running}
            running = sorted(running, key=gains.__getitem__, reverse=True)[:kept]
            first = last
        return running[0] if gains[running[0]] > 0.0 else reference

    def _run(self, genomes: Sequence[Genome], cases: Sequence[int]) -> None:
        for case in cases:
            self.evaluator.dense(case)
        self.evaluator.run([(case, genome) for case in cases for genome in dict.fromkeys(genomes)])

    def _gain(self, genome: Genome, reference: Genome, cases: int, prior_std: float) -> Gain:
        """Return the expected gain over the reference, from those of the first `cases` cases that both were run on."""
        outcomes = self.evaluator.outcomes
        both = [case for case in range(cases) if (case, genome) in outcomes and (case, reference) in outcomes]
        own, other = ([outcomes[case, each].loss for case in both] for each in (genome, reference))
        prior_of = partial(expected_forecast_gain, setting=self.evaluator.setting)
        prior = prior_of(genome.forecast) - prior_of(reference.forecast)
        return posterior_gain(own, other, prior, prior_std), posterior_std(own, other, prior_std)


def _add(gain: Gain, further: Gain, share: float = 1.0) -> Gain:
    """Return the sum of two gains in succession. share: part of the second mean that counts."""
    return gain[0] + share * further[0], math.hypot(gain[1], further[1])
