"""Candidates of the first full-size round: other forecasts and placements, held predictions, partial steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from ...engine.planning.modes import HOLD
from ..evaluation.evaluator import Evaluator
from ..evaluation.step_cost import measure_step_cost
from ..problem.candidate import Genome, forecasts_like
from ..ranking.forecast_priors import initial_forecasts
from ..ranking.replay_ranking import ReplayRanking
from ..ranking.standings import Standings
from ..ranking.successive_halving import SuccessiveHalving
from .breeding import Breeder
from .initial import periodic_candidate, uniform_candidate

FIRST_ROUND_SHARE = 0.6  # of the effort for candidates
BREEDING_FORECASTS = 2  # initial forecasts that the baselines are evolved with


class FirstRound:
    """Proposes the first round of one budget. baselines: at least one, the first of which has been evaluated."""

    def __init__(
        self,
        evaluator: Evaluator,
        standings: Standings,
        rounds: SuccessiveHalving,
        breeder: Breeder,
        ranking: ReplayRanking | None,
        cases: Sequence[int],
        baselines: Sequence[Genome],
    ):
        self._evaluator, self._standings, self._rounds = evaluator, standings, rounds
        self._breeder, self._ranking = breeder, ranking
        self._cases, self._baselines = list(cases), list(baselines)

    def propose(self) -> list[Genome]:
        """Return as many candidates as the round has room for, taken in turns from five lists.

        The lists: other kinds of candidates; the baseline with each initial forecast (two lists, as forecasts matter
        more than placements); other placements, evolved by replay; the baseline with all forecasts, ranked by replay.
        """
        baseline, setting = self._baselines[0], self._evaluator.setting
        kinds, forecasts = self._other_kinds(), initial_forecasts(setting)
        same_steps = [replace(baseline, forecast=forecast) for forecast in forecasts]
        lists: list[list[Genome]] = [kinds, same_steps[::2], same_steps[1::2]]
        if self._ranking is not None and not baseline.has_partial_steps:
            parents = [replace(g, forecast=f) for g in self._baselines for f in forecasts[:BREEDING_FORECASTS]]
            near = [genome for genome in self._breeder.evolve(parents) if genome.budgets != baseline.budgets]
            all_forecasts = [replace(baseline, forecast=each) for each in forecasts_like(forecasts[0])]
            lists += [self._breeder.survivors(near), self._ranking.rank(all_forecasts)]
        turns = [genome for turn in zip_longest(*lists) for genome in turn if genome is not None and genome != baseline]
        return list(dict.fromkeys(turns))[: self._rounds.width(FIRST_ROUND_SHARE)]

    def _other_kinds(self) -> list[Genome]:
        """Return candidates that hold predictions or have partial steps and are not far behind on one case, best first.

        Their runs measure the cost of partial steps, unless it was given. Patterns that do well but cost more than the
        budget are made again for a smaller one.
        """
        baseline, setting, budget = self._baselines[0], self._evaluator.setting, self._standings.budget
        held = replace(baseline, mode=HOLD.name)
        ranking = None if baseline.has_partial_steps else self._ranking
        hold_may_win = ranking is None or ranking.is_close(held, baseline)
        patterns = {make(setting, budget): partial(make, setting) for make in (periodic_candidate, uniform_candidate)}
        usable = patterns if setting.has_token_steps else {}
        partials = {genome: pattern for genome, pattern in usable.items() if genome.has_partial_steps}
        # If the cost is given, cheaper patterns can be made before the first run.
        within = self._cheaper(partials.items()) if self._standings.is_cost_given else []
        hopeful = self._rounds.screen([*([held] if hold_may_win else []), *partials, *within])
        self._measure_step_cost(partials)
        hopeful |= self._rounds.screen(self._cheaper(g for g in partials.items() if g[0] in hopeful))
        fitting = filter(self._standings.fits_budget, hopeful)
        return sorted(fitting, key=lambda genome: hopeful[genome].score, reverse=True)

    def _cheaper(self, partials: Iterable[tuple[Genome, Callable[[float], Genome]]]) -> list[Genome]:
        """Return patterns that cost more than the budget, made again within it."""
        standings, calls = self._standings, self._evaluator.setting.calls_per_step
        found = [
            standings.step_cost.largest_affordable(pattern, standings.budget, calls)
            for genome, pattern in partials
            if not standings.fits_budget(genome)
        ]
        return [genome for genome in found if genome is not None]

    def _measure_step_cost(self, partials: Iterable[Genome]) -> None:
        """Measure the cost of partial steps by these runs on the first case and the baseline's runs."""
        outcomes, case, baseline = self._evaluator.outcomes, self._cases[0], self._baselines[0]
        partial_runs = [(genome, outcomes[case, genome]) for genome in partials if (case, genome) in outcomes]
        full_runs = [] if baseline.has_partial_steps else [(baseline, outcomes[c, baseline]) for c in self._cases]
        cost = measure_step_cost(partial_runs, full_runs, self._evaluator.setting.calls_per_step)
        self._standings.learn_step_cost(cost)
