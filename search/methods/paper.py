"""The paper's evolutionary search with free budgets (arXiv 2506.05096, §3.3), as the search method `paper`.

Population 50, 30 children per generation, uniform and block crossover, mutation probability falling from 0.1 to 0.01,
repair into 0.9…1.1 of the budget, fitness the mean square error over the cases. Where the paper says nothing, the
population begins at random, parents come from the better half, and the best 50 survive.

Once a child cannot survive any more, it is not run on its remaining cases, but their cost is counted: the search makes
the same choices at the same cost in dense-run equivalents, in less time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from ...errors import SearchError
from ...schedules import mean_budget
from ..evaluation.effort import Effort, count_cases
from ..evaluation.evaluator import Evaluation, Evaluator, OnOutcome
from ..evaluation.replay import Replay
from ..evaluation.run_log import RunLog
from ..evaluation.step_cost import StepCost
from ..problem.candidate import MIN_LAST_BUDGET, Genome, uniform_crossover, with_ends
from ..problem.config import SearchConfig
from ..problem.losses import MAX_LOSS
from ..problem.runner import Runner

BUDGETS = tuple(number / 10 for number in range(11))
POPULATION, CHILDREN, GENERATIONS = 50, 30, 30
BAND = (0.9, 1.1)
MUTATION = (0.1, 0.01)
MAX_IDLE_GENERATIONS = 20  # without a new candidate, after which a search ends: few steps allow few candidates


class PaperMethod:
    """Fulfils `methods.Method`. No proxy cases, no replay; the cost of partial steps is taken to be their tokens."""

    proxy_cases = 0

    def __init__(
        self,
        runner: Runner,
        run_log: RunLog,
        config: SearchConfig,
        on_outcome: OnOutcome,
        on_proxy_outcome: OnOutcome,
    ):
        if not runner.setting.has_token_steps:
            raise SearchError(
                "The paper's method searches for shares of tokens, and this model's blocks are not known: use another."
            )
        self.evaluator = Evaluator(runner, run_log, on_outcome)
        self.evaluators = (self.evaluator,)
        self.cases = range(count_cases(runner.setting, config.effort))

    def search_for(self, budget: float, rng: random.Random, effort: Effort, replay: Replay | None) -> PaperSearch:
        return PaperSearch(self.evaluator, self.cases, budget, rng)


class PaperSearch:
    """The search for one budget."""

    baselines: tuple[Genome, ...] = ()
    step_cost = StepCost()

    def __init__(self, evaluator: Evaluator, cases: Sequence[int], budget: float, rng: random.Random) -> None:
        self.evaluator, self.cases, self.budget = evaluator, list(cases), budget
        self.population: list[Evaluation] = []
        self._rng = rng
        self._beaten: dict[Genome, Evaluation] = {}

    @property
    def best(self) -> Evaluation | None:
        return min(self.population, key=_error) if self.population else None

    def results(self) -> list[Evaluation]:
        """Return the population's candidates that were run on all cases."""
        return [each for each in self.population if not each.aborted]

    def on_outcome(self, genome: Genome) -> bool:
        """Return False: a candidate can become the best only later, when it joins the population."""
        return False

    def run(self, allowance: float) -> None:
        """Spend this many dense-run equivalents."""
        end = self.evaluator.cost + allowance
        for _ in range(POPULATION):
            if self.evaluator.cost >= end:
                return
            self._add(self._make_genome(self._random_budgets()))
        generation = idle = 0
        while self.evaluator.cost < end and len(self.population) > 1 and idle < MAX_IDLE_GENERATIONS:
            before = self.evaluator.cost
            self._next_generation(generation, end)
            generation += 1
            idle = idle + 1 if self.evaluator.cost == before else 0

    def _next_generation(self, generation: int, end: float) -> None:
        chance = max(MUTATION[1], MUTATION[0] + (MUTATION[1] - MUTATION[0]) * generation / (GENERATIONS - 1))
        parents = sorted(self.population, key=_error)[: max(2, POPULATION // 2)]
        for _ in range(CHILDREN):
            if self.evaluator.cost >= end:
                break
            self._add(self._make_genome(self._child_budgets(parents, chance)))
        self.population = sorted(self.population, key=_error)[:POPULATION]

    def _add(self, genome: Genome) -> None:
        """Evaluate a candidate, unless it is in the population already or its mean budget is outside the band."""
        mean = mean_budget(genome.budgets, self.evaluator.setting.calls_per_step)
        low, high = self._band
        if not low <= mean <= high or genome in {each.genome for each in self.population}:
            return
        self.population.append(self._evaluate(genome))

    def _evaluate(self, genome: Genome) -> Evaluation:
        """Return losses in the cases' order; infinite for cases left out."""
        if genome in self._beaten:
            return self._beaten[genome]
        losses: dict[int, float] = {}
        for case in self._hardest_first():
            if _sum_bounded(losses.values()) > self._survival_limit():
                break
            losses[case] = self.evaluator.evaluate([genome], [case])[0].losses[0]
        evaluation = Evaluation(genome, tuple(losses.get(case, math.inf) for case in self.cases))
        if evaluation.aborted:
            self._beaten[genome] = evaluation
            left_out = [case for case in self.cases if case not in losses]
            self.evaluator.count_as_run(genome, left_out, next(iter(losses)))
        return evaluation

    def _survival_limit(self) -> float:
        """Return the sum of losses of the worst candidate that would survive now."""
        errors = sorted(_error(each) for each in self.population)[:POPULATION]
        return errors[-1] * len(self.cases) if len(errors) == POPULATION else math.inf

    def _hardest_first(self) -> list[int]:
        """Return the cases, those with the largest losses of survivors first, to recognise beaten candidates early."""
        survivors = self.population[:POPULATION]
        totals = [math.fsum(each.losses[number] for each in survivors) for number in range(len(self.cases))]
        return [self.cases[number] for number in sorted(range(len(totals)), key=lambda k: -totals[k])]

    def _random_budgets(self) -> list[float]:
        return [self._rng.choice(BUDGETS) for _ in range(self.evaluator.setting.steps)]

    def _child_budgets(self, parents: Sequence[Evaluation], chance: float) -> list[float]:
        rng = self._rng
        a, b = (parent.genome.budgets for parent in rng.sample(parents, 2))
        cross = uniform_crossover if rng.random() < 0.5 else block_crossover
        return [rng.choice(BUDGETS) if rng.random() < chance else budget for budget in cross(a, b, rng)]

    def _make_genome(self, budgets: Sequence[float]) -> Genome:
        setting = self.evaluator.setting
        ended = with_ends(budgets, setting.sigmas)
        return Genome(tuple(repair(ended, setting.calls_per_step, self._band, self._rng)))

    @property
    def _band(self) -> tuple[float, float]:
        return BAND[0] * self.budget, BAND[1] * self.budget


def block_crossover(a: Sequence[float], b: Sequence[float], rng: random.Random) -> list[float]:
    """Take a contiguous segment from the second parent, the rest from the first (§3.3)."""
    start, end = sorted(rng.sample(range(len(a) + 1), 2))
    return [*a[:start], *b[start:end], *a[end:]]


def repair(
    budgets: Sequence[float], calls_per_step: Sequence[int], band: tuple[float, float], rng: random.Random
) -> list[float]:
    """Move the budgets of random steps to the next of BUDGETS until their mean lies in the band (§3.3).

    Returns budgets outside the band if it cannot be reached.
    """
    repaired, last = list(budgets), len(budgets) - 1
    low, high = band
    for _ in range(200 * len(budgets)):
        mean = mean_budget(repaired, calls_per_step)
        if low <= mean <= high:
            break
        upwards = mean < low
        step = rng.randrange(1, len(budgets))
        nearest = min(range(len(BUDGETS)), key=lambda i: abs(BUDGETS[i] - repaired[step]))
        following = min(max(nearest + (1 if upwards else -1), 0), len(BUDGETS) - 1)
        repaired[step] = max(BUDGETS[following], MIN_LAST_BUDGET if step == last else 0.0)
    return repaired


def _error(evaluation: Evaluation) -> float:
    return _sum_bounded(evaluation.losses) / len(evaluation.losses)


def _sum_bounded(losses: Iterable[float]) -> float:
    return math.fsum(min(loss, MAX_LOSS) for loss in losses)
