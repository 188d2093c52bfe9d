"""The search in the time of three clips: a dense run or two, evolution by replay of them, and one check in full size.

For models whose one clip takes minutes. Runs of what one has without a search and of the best that replay finds decide
between the two; a gain that one clip shows by chance is shrunk like any other (`posterior_gain`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..evaluation.evaluator import Evaluation, Evaluator
from ..evaluation.replay import Replay
from ..evaluation.step_cost import StepCost
from ..problem.candidate import Genome
from ..proposals.breeding import Breeder
from ..proposals.initial import step_skipping_candidates, usual_candidate
from ..ranking.forecast_priors import initial_forecasts
from ..ranking.gain_prior import GainPrior
from ..ranking.replay_ranking import ReplayRanking
from ..ranking.standings import Standings

CHECKED = 2  # runs of a budget: the usual candidate and the best replayed one
FULL_CASES = 2  # dense runs if they fit into the effort, else one


def count_instant_cases(budgets: Sequence[float], effort: float) -> int:
    """Return how many dense runs fit into the effort beside the checks."""
    left = effort - CHECKED * sum(budgets)
    return FULL_CASES if left >= FULL_CASES - 1e-6 else 1


class InstantSearch:
    """Fulfils `methods.BudgetSearch`. budget: largest cost of a candidate."""

    def __init__(
        self, evaluator: Evaluator, replay: Replay | None, budget: float, rng: random.Random, step_cost: StepCost | None
    ):
        setting = evaluator.setting
        known = [usual_candidate(setting, budget), *step_skipping_candidates(setting, budget)]
        cost = step_cost or StepCost()
        self.baselines = tuple(g for g in dict.fromkeys(known) if cost.fits_budget(g, setting.calls_per_step, budget))
        prior = GainPrior(setting, (self.baselines or tuple(known))[0], replay)
        self._evaluator, self._case = evaluator, 0
        self._standings = Standings(budget, setting.calls_per_step, prior, cost)
        self._ranking = None if replay is None else ReplayRanking(replay, evaluator, self._standings)
        self._breeder = Breeder(setting, self._standings, self._ranking, rng)

    @property
    def best(self) -> Evaluation | None:
        return self._standings.best

    @property
    def step_cost(self) -> StepCost:
        return self._standings.step_cost

    def results(self) -> list[Evaluation]:
        """Return candidates to show: see `Standings.results`."""
        return self._standings.results()

    def on_outcome(self, genome: Genome) -> bool:
        """Add a candidate to the standings; tell whether it is a new best."""
        outcome = self._evaluator.outcomes.get((self._case, genome))
        before = self.best
        if outcome is not None and self._standings.fits_budget(genome):
            self._standings.add([Evaluation(genome, (outcome.loss,))])
        return self.best is not before

    def run(self, allowance: float) -> None:
        """Run the usual candidate and the best replayed one, where the sampler can be replayed."""
        if not self.baselines:
            return
        self._standings.add(self._evaluator.evaluate(self.baselines[:1], [self._case]))
        found = self._best_replayed()
        if found is not None:
            self._standings.add(self._evaluator.evaluate([found], [self._case]))

    def _best_replayed(self) -> Genome | None:
        """Return what replay, with the responses of the first run, puts above the usual candidate."""
        if self._ranking is None:
            return None
        setting, usual = self._evaluator.setting, self.baselines[0]
        parents = [Genome(g.budgets, forecast) for g in self.baselines for forecast in initial_forecasts(setting)[:2]]
        first = self._breeder.evolve([*self.baselines, *parents])
        best = first[0] if first else usual
        same_steps = [Genome(best.budgets, forecast) for forecast in initial_forecasts(setting)]
        ranked = self._ranking.rank([*first[:1], *same_steps, usual])
        return ranked[0] if ranked and ranked[0] != usual else None
