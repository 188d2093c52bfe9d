"""The search for one budget: small clips if there are any, a first round, else rounds of evolution.

Replay of the dense runs needs no model call and ranks step-skipping schedules well, so a population evolves by it. The
best are run on the model by successive halving, and these runs correct the replay for the next round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..evaluation.effort import Effort
from ..evaluation.evaluator import Evaluation, Evaluator
from ..evaluation.replay import Replay
from ..evaluation.step_cost import StepCost
from ..problem.candidate import Genome
from ..proposals.breeding import Breeder
from ..proposals.first_round import FirstRound
from ..proposals.initial import step_skipping_candidates, usual_candidate
from ..ranking.gain_prior import GainPrior
from ..ranking.replay_ranking import ReplayRanking
from ..ranking.standings import Standings
from ..ranking.successive_halving import SuccessiveHalving
from .proxy import ProxySearch

PER_FORECAST = 3  # candidates of a round with the same forecast, as these fail together
ROUND_SHARE = 0.6  # of the remaining effort that a round may take
LEADERS = 3  # of each round, parents of the next population


class Evolution:
    """The search for one budget.

    budget: largest cost of a candidate; cases: those that count in the end; effort: account of all runs; step_cost:
    None if it is to be measured; proxy: search on small clips to begin with, if any.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        replay: Replay | None,
        cases: Sequence[int],
        budget: float,
        rng: random.Random,
        effort: Effort,
        step_cost: StepCost | None = None,
        proxy: ProxySearch | None = None,
    ):
        setting = evaluator.setting
        known = [usual_candidate(setting, budget), *step_skipping_candidates(setting, budget)]
        fits = [
            g for g in dict.fromkeys(known) if (step_cost or StepCost()).fits_budget(g, setting.calls_per_step, budget)
        ]
        prior = GainPrior(setting, (fits or known)[0], replay)
        self.baselines = tuple(fits)
        self.standings = Standings(budget, setting.calls_per_step, prior, step_cost)
        self._evaluator, self._cases, self._effort, self._proxy = evaluator, list(cases), effort, proxy
        self._ranking = ReplayRanking(replay, evaluator, self.standings) if replay is not None else None
        self._breeder = Breeder(setting, self.standings, self._ranking, rng)

    @property
    def best(self) -> Evaluation | None:
        return self.standings.best

    @property
    def step_cost(self) -> StepCost:
        return self.standings.step_cost

    def results(self) -> list[Evaluation]:
        """Return candidates to show: see `Standings.results`."""
        return self.standings.results()

    def on_outcome(self, genome: Genome) -> bool:
        """Add a candidate to the standings once it has been run on all cases; tell whether it is a new best."""
        outcomes = [self._evaluator.outcomes.get((case, genome)) for case in self._cases]
        losses = tuple(outcome.loss for outcome in outcomes if outcome is not None)
        before = self.best
        if len(losses) == len(self._cases) and self.standings.fits_budget(genome):
            self.standings.add([Evaluation(genome, losses)])
        return self.best is not before

    def run(self, allowance: float) -> None:
        """Spend about this many dense-run equivalents; none if the budget is too small for a first and a last step."""
        if not self.baselines:
            return
        end = self._effort.cost + allowance
        rounds = SuccessiveHalving(self._evaluator, self.standings, self._cases, self._effort, end)
        self.standings.add(self._evaluator.evaluate(self.baselines[:1], self._cases))
        result = None if self._proxy is None else self._proxy.run(self.baselines[0], self.standings.fits_budget)
        if result is not None:
            self.standings.add_proxy_result(result)
            rounds.run(result.found)
        first = FirstRound(
            self._evaluator, self.standings, rounds, self._breeder, self._ranking, self._cases, self.baselines
        )
        rounds.run(first.propose())
        if result is None:  # after a search on small clips, evolution never found anything better
            self._evolve(rounds)

    def _evolve(self, rounds: SuccessiveHalving) -> None:
        """Evolve by replay and run the best, in turn, until the effort is spent or nothing new is found."""
        population = list(self.baselines)
        while rounds.has_room:
            evolved = self._breeder.evolve([*(each.genome for each in self.standings.leaders(LEADERS)), *population])
            survivors, width = self._breeder.survivors(evolved), rounds.width(ROUND_SHARE)
            if not rounds.run(self._choose(survivors, width) or self._choose(evolved, width)):
                break
            if self._ranking is not None:
                population = survivors

    def _choose(self, ranked: Sequence[Genome], width: int) -> list[Genome]:
        """Return the first candidates that have not been run, few of them with the same forecast."""
        chosen: list[Genome] = []
        for genome in ranked:
            alike = sum((g.forecast, g.mode) == (genome.forecast, genome.mode) for g in chosen)
            is_new = genome not in self.standings.partial and genome not in self.standings.complete
            if is_new and alike < PER_FORECAST:
                chosen.append(genome)
            if len(chosen) == width:
                break
        return chosen
