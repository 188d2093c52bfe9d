"""Placing the computed steps on small clips: runs of the same model, sampled alike, at a fraction of the price.

What a schedule gains differs by several dB from pair to pair, so that to tell placements apart takes hundreds of runs.
Of clips with a twelfth of the tokens that many can be paid for, and they rank schedules as the full size does. What is
found there is run in full size before it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..schedules import DEFAULT_MODE
from .candidate import Genome
from .evaluation.evaluator import Evaluator
from .evaluation.posterior_gain import posterior_gain, posterior_std
from .proposals.priors import initial_forecasts, prior_gain
from .proposals.step_placements import step_placements

MIN_CASES, MAX_CASES = 12, 128
PLACES_ROUNDS = ((0.15, 7), (0.4, 3), (1.0, 1))  # up to which share of the pairs, and how many go on
WAYS_ROUNDS = ((0.4, 2), (1.0, 1))  # the same for ways to forecast, on the placement found
DRAWN_SHARE = 0.4  # of the pairs that what one has without a search is run on
RUNS_A_PAIR = 10  # about, for each budget
TRANSFER = 0.5  # in full size, of what other placements gain on small clips
MIN_PROXY_GAIN_DB = 1.0  # gain on small clips from which another placement is taken; less may be theirs alone
PLACEMENT_STD_DB, FORECAST_STD_DB = (
    1.5,
    0.7,
)  # how far placements, and ways to forecast, are from what is expected of them


@dataclass(frozen=True)
class ProxyResult:
    """What runs on small clips tell. found: best first.

    gains: dB to be expected over what one has without a search, and the standard deviation.
    """

    found: tuple[Genome, ...]
    gains: dict[Genome, tuple[float, float]]


class ProxySearch:
    """Searches on small clips. judge: of these, all of whose cases are used."""

    def __init__(self, judge: Evaluator):
        self.judge, self.pairs = judge, judge.setting.cases

    def learn(self, drawn: Genome, fits_budget: Callable[[Genome], bool]) -> ProxyResult | None:
        """Run placements with as many computed steps as the drawn one, then ways to forecast on the best of them.

        None where the drawn one leaves nothing to place.
        """
        if drawn.mode != DEFAULT_MODE:
            return None
        first, *others = dict.fromkeys((*initial_forecasts(self.judge.setting), drawn.forecast))
        same_steps = replace(drawn, forecast=first)
        candidates = list(filter(fits_budget, step_placements(same_steps)))
        if not candidates:
            return None
        best = self._best_of(candidates, same_steps, PLACES_ROUNDS, PLACEMENT_STD_DB)
        if self._gain(best, same_steps, self.pairs, PLACEMENT_STD_DB)[0] < MIN_PROXY_GAIN_DB:
            best = same_steps
        ways = [replace(best, forecast=way) for way in others]
        best_way = self._best_of(ways, best, WAYS_ROUNDS, FORECAST_STD_DB)
        self._run([drawn], range(round(DRAWN_SHARE * self.pairs)))
        gains = {same_steps: self._gain(same_steps, drawn, self.pairs, FORECAST_STD_DB)}
        for genome in candidates:
            gains[genome] = _sum(
                gains[same_steps], self._gain(genome, same_steps, self.pairs, PLACEMENT_STD_DB), TRANSFER
            )
        for genome in ways:
            gains[genome] = _sum(gains[best], self._gain(genome, best, self.pairs, FORECAST_STD_DB))
        found = (best_way, best, replace(drawn, forecast=best_way.forecast))
        return ProxyResult(tuple(genome for genome in dict.fromkeys(found) if genome != drawn), gains)

    def _best_of(
        self, genomes: Sequence[Genome], reference: Genome, rounds: Sequence[tuple[float, int]], far: float
    ) -> Genome:
        """By successive halving, each round on further pairs; the reference where none is better."""
        running, first = list(dict.fromkeys(genomes)), 0
        for share, many in rounds:
            last = min(self.pairs, max(first + 1, round(share * self.pairs)))
            self._run([reference, *running], range(first, last))
            gains = {genome: self._gain(genome, reference, last, far)[0] for genome in running}
            running = sorted(running, key=gains.__getitem__, reverse=True)[:many]
            first = last
        return running[0] if gains[running[0]] > 0.0 else reference

    def _run(self, genomes: Sequence[Genome], pairs: Sequence[int]) -> None:
        for pair in pairs:
            self.judge.dense(pair)
        self.judge.make([(pair, genome) for pair in pairs for genome in dict.fromkeys(genomes)])

    def _gain(self, genome: Genome, reference: Genome, pairs: int, far: float) -> tuple[float, float]:
        """dB to be expected over the reference, by those of the first pairs that both were run on, and the standard
        deviation. far: how far what is expected before any run is off, typically.
        """
        outcomes = self.judge.outcomes
        both = [pair for pair in range(pairs) if (pair, genome) in outcomes and (pair, reference) in outcomes]
        own, other = ([outcomes[pair, each].loss for pair in both] for each in (genome, reference))
        usual = partial(prior_gain, setting=self.judge.setting)
        before = usual(genome.forecast) - usual(reference.forecast)
        return posterior_gain(own, other, before, far), posterior_std(own, other, far)


def _sum(gain: tuple[float, float], extra_check: tuple[float, float], share: float = 1.0) -> tuple[float, float]:
    """Gains one upon the other; share: how much of the further one counts."""
    return gain[0] + share * extra_check[0], math.hypot(gain[1], extra_check[1])
