"""Evolution of step-skipping candidates, ranked by replay; without replay, mutants of the best that were run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from ...schedules import DEFAULT_MODE
from ..problem.candidate import Genome, change_forecast, fill_budget, move_steps, uniform_crossover
from ..problem.runner import SamplingConfig
from ..ranking.replay_ranking import ReplayRanking
from ..ranking.standings import Standings

POPULATION, CHILDREN, GENERATIONS = 24, 24, 8
CROSSOVER_PROBABILITY, FORECAST_PROBABILITY = 0.25, 0.25
MOVES = (0, 1, 1, 2)  # of steps in a child
PARENT_FORECASTS = 3  # leaders whose forecasts every candidate also gets


class Breeder:
    """Makes candidates from others for one budget. ranking: None if nothing can be replayed."""

    def __init__(
        self, setting: SamplingConfig, standings: Standings, ranking: ReplayRanking | None, rng: random.Random
    ):
        self._setting, self._standings, self._ranking, self._rng = setting, standings, ranking, rng

    def evolve(self, population: Sequence[Genome]) -> list[Genome]:
        """Evolve the population by replay and return all candidates of its generations, best first.

        Without replay, return the population, then mutants.
        """
        pool = list(dict.fromkeys(population))
        if self._ranking is None:
            return [*pool, *self._mutants()]
        self._ranking.update()
        leaders = [each.genome for each in self._standings.leaders(PARENT_FORECASTS)]
        settings = dict.fromkeys((genome.forecast, genome.mode) for genome in leaders)
        skipping = [genome for genome in pool if not genome.has_partial_steps]
        skipping += [replace(genome, forecast=f, mode=mode) for genome in skipping for f, mode in settings]
        ranked = self._ranking.rank(skipping)
        for _ in range(GENERATIONS if ranked else 0):
            children = [self._child(self.survivors(ranked)) for _ in range(CHILDREN)]
            ranked = self._ranking.rank([*ranked, *children])
        return ranked

    def survivors(self, ranked: Sequence[Genome]) -> list[Genome]:
        """Return the next population."""
        return list(ranked[:POPULATION])

    def _mutants(self) -> list[Genome]:
        parents = [each.genome for each in self._standings.leaders(POPULATION)]
        children = (self._child(parents) for _ in range(CHILDREN))
        return [child for child in dict.fromkeys(children) if self._standings.fits_budget(child)]

    def _child(self, parents: Sequence[Genome]) -> Genome:
        """Return a mutant of a parent or of two mixed ones. Parents: best first; better ones are drawn more often."""
        rng = self._rng
        child = parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]
        if child.has_partial_steps:
            return move_steps(child, rng)
        if rng.random() < CROSSOVER_PROBABILITY:
            second = rng.choice(parents)
            if not second.has_partial_steps:
                mixed = replace(child, budgets=tuple(uniform_crossover(child.budgets, second.budgets, rng)))
                child = fill_budget(mixed, self._setting.calls_per_step, self._standings.budget, rng)
        child = move_steps(child, rng, rng.choice(MOVES))
        changes = rng.random() < FORECAST_PROBABILITY and child.mode == DEFAULT_MODE
        return change_forecast(child, rng) if changes else child
