"""The paper's evolutionary search (arXiv 2506.05096, §3.3), free sizes: what this project's is measured against.

Population 50, 30 children a generation, uniform and block crossover, mutation probability falling from 0.1 to 0.01,
repair into 0.9…1.1 of the budget, fitness the mean square error over the prompts. What it leaves open: the population
begins at random, parents are drawn from the better half, the best 50 survive.

A child that cannot survive, whatever its last cases bring, is not run on these. It is counted as if it had been, so
that the search goes the same way and costs the same equivalents; only the clock tells.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

from ..schedules import DEFAULT_MODE
from .candidate import FREE_SIZES, Genome, block_crossover, repaired, uniform_crossover, with_ends
from .evaluation.evaluator import NOT_FINITE, Evaluation, Evaluator

POPULATION, CHILDREN, GENERATIONS = 50, 30, 30
BAND = (0.9, 1.1)
MUTATION = (0.1, 0.01)


class PaperSearch:
    """One search; `mode` is how its candidates estimate what they do not compute."""

    def __init__(
        self, judge: Evaluator, cases: Sequence[int], budget: float, rng: random.Random, mode: str = DEFAULT_MODE
    ) -> None:
        self.judge, self.cases, self.budget, self.rng, self.mode = judge, list(cases), budget, rng, mode
        self.population: list[Evaluation] = []
        self._beaten: dict[Genome, Evaluation] = {}

    @property
    def best(self) -> Evaluation | None:
        return min(self.population, key=_error) if self.population else None

    def run(self, limit: float, told: Callable[[Evaluation], None] | None = None) -> None:
        """Until `judge.spent` reaches the limit. told: called with the best after each candidate."""
        for _ in range(POPULATION):
            if self.judge.spent >= limit:
                return
            self._judge(self._genome(self._random()), told)
        generation = 0
        while self.judge.spent < limit:
            chance = max(MUTATION[1], MUTATION[0] + (MUTATION[1] - MUTATION[0]) * generation / (GENERATIONS - 1))
            parents = sorted(self.population, key=_error)[: POPULATION // 2]
            for _ in range(CHILDREN):
                if self.judge.spent >= limit:
                    break
                self._judge(self._genome(self._child(parents, chance)), told)
            self.population = sorted(self.population, key=_error)[:POPULATION]
            generation += 1

    def _judge(self, genome: Genome, told: Callable[[Evaluation], None] | None) -> None:
        known = {verdict.genome for verdict in self.population}
        if genome in known:
            return
        self.population.append(self._verdict(genome))
        if told is not None and self.best is not None:
            told(self.best)

    def _verdict(self, genome: Genome) -> Evaluation:
        """Losses in the cases' order; inf for cases that were left out."""
        if genome in self._beaten:
            return self._beaten[genome]
        losses: dict[int, float] = {}
        for case in self._hardest_first():
            if _bounded(losses.values()) > self._most():
                break
            losses[case] = self.judge.verdicts([genome], [case])[0].losses[0]
        verdict = Evaluation(genome, tuple(losses.get(case, math.inf) for case in self.cases))
        if verdict.given_up:
            self._beaten[genome] = verdict
            self.judge.count_as_run(genome, [case for case in self.cases if case not in losses], next(iter(losses)))
        return verdict

    def _most(self) -> float:
        """Sum of the losses of the worst that would survive now."""
        errors = sorted(_error(verdict) for verdict in self.population)[:POPULATION]
        return errors[-1] * len(self.cases) if len(errors) == POPULATION else math.inf

    def _hardest_first(self) -> list[int]:
        """Cases by their share of the error: the sooner is known who is beaten."""
        survivors = self.population[:POPULATION]
        totals = [math.fsum(verdict.losses[place] for verdict in survivors) for place in range(len(self.cases))]
        return [self.cases[place] for place in sorted(range(len(totals)), key=lambda k: -totals[k])]

    def _random(self) -> list[float]:
        return [self.rng.choice(FREE_SIZES) for _ in range(self.judge.setting.steps)]

    def _child(self, parents: Sequence[Evaluation], chance: float) -> list[float]:
        a, b = (parent.genome.budgets for parent in self.rng.sample(parents, 2))
        mix = uniform_crossover if self.rng.random() < 0.5 else block_crossover
        return [self.rng.choice(FREE_SIZES) if self.rng.random() < chance else size for size in mix(a, b, self.rng)]

    def _genome(self, budgets: Sequence[float]) -> Genome:
        setting = self.judge.setting
        band = (BAND[0] * self.budget, BAND[1] * self.budget)
        ended = with_ends(budgets, setting.sigmas)
        return Genome(tuple(repaired(ended, setting.evaluations, band, self.rng)), mode=self.mode)


def _error(verdict: Evaluation) -> float:
    return _bounded(verdict.losses) / len(verdict.losses)


def _bounded(losses: Iterable[float]) -> float:
    """Sum of losses; what was not finite counts as an empty picture."""
    return math.fsum(min(loss, NOT_FINITE) for loss in losses)
