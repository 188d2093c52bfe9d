"""The search for one budget: many candidates are replayed, few are run.

Replaying the dense runs (`replay`) costs no model call and ranks schedules of whole steps well, so a population evolves
there; its best are run on a few cases, the better half on more (successive halving). What those runs tell corrects the
replay, and it goes on from the best. Seeds are drawn by hand, by dynamic programming, by a probe and on small clips.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import zip_longest
from statistics import fmean

from ..engine.planning.modes import HOLD
from ..schedules import DEFAULT_MODE
from .candidate import FORECASTS, Genome, most_steps, moved, other_forecast, uniform_crossover
from .evaluation.evaluator import Evaluation, Evaluator, mean_psnr
from .evaluation.posterior_gain import PRIOR_STD_DB, beats_baseline, posterior_gain, significantly_worse
from .evaluation.replay import Replay
from .evaluation.step_cost import StepCost, measured
from .proposals.dynamic_programming import cheapest, longest_skip
from .proposals.initial import bundled_candidate, step_skipping_candidates, token_candidate, uniform_candidate
from .proposals.priors import initial_forecasts, prior_gain
from .proposals.sensitivity import allotted, probe
from .proxy import ProxyResult, ProxySearch

POPULATION, CHILDREN, GENERATIONS = 24, 24, 8
SLACK_DB = 12.0  # a run is given up where it is this much worse than the best one is anywhere
PER_FORECAST = 3  # of one way to forecast no more are run in a round: they fail together
FIRST_CASES = 3
BEHIND_DB = 3.0  # two candidates differ by so much from case to case, by chance
ENOUGH_FOR_PROBE = 40.0  # dense-run equivalents from which the sensitivity probe is worth its runs
NOTICEABLE_DB = 0.05
MOVED_DB, WIDER_DB = 0.15, 2.0  # doubts for each step that is moved, and each by which the widest gap is wider
FOR_FIRST = 0.6  # share of the runs that the first round is given


class Evolution:
    """The candidates for one budget.

    budget: the most that is spent; cases: those that count in the end; prices: None has them measured; small: clips on
    which steps are placed beforehand, None where there are none.
    """

    def __init__(
        self,
        judge: Evaluator,
        replay: Replay | None,
        cases: Sequence[int],
        budget: float,
        rng: random.Random,
        prices: StepCost | None = None,
        small: ProxySearch | None = None,
    ):
        self.judge, self.replay, self.cases, self.budget, self.rng = judge, replay, list(cases), budget, rng
        self.setting, self.small = judge.setting, small
        self.learnt: ProxyResult | None = None  # on small clips
        self.reference: Evaluation | None = None  # what one has without a search
        self.best: Evaluation | None = None
        self.baselines: list[Genome] = []
        self.prices, self._fixed_prices = prices or StepCost(), prices is not None
        self.judged: dict[Genome, Evaluation] = {}  # on all cases
        self.partly: dict[Genome, Evaluation] = {}  # on the first cases

    def run(self, allowance: float) -> None:
        """Spend about so many dense-run equivalents; nothing where the budget does not pay for the ends of a run."""
        end = self.spent + allowance
        drawn = [bundled_candidate(self.setting, self.budget), *step_skipping_candidates(self.setting, self.budget)]
        self.baselines = [genome for genome in dict.fromkeys(drawn) if self.fits_budget(genome)]
        if not self.baselines:
            return
        self.reference = self.judge.verdicts(self.baselines[:1], self.cases)[0]
        self._settle([self.reference])
        if self.small is not None:
            self.learnt = self.small.learn(self.baselines[0], self.fits_budget)
            self._round(self.learnt.found if self.learnt is not None else (), end)
        self._round(self._first(self.baselines[0], end), end)
        population = self._seeds(allowance)
        while self._room(end):
            evolved = self._evolved([*(v.genome for v in self._leaders(3)), *population])
            best, width = evolved[:POPULATION], self._width((end - self.spent) * 0.6)
            if not self._round(self._chosen(best, width) or self._chosen(evolved, width), end):
                break
            if self.replay is not None:
                population = best

    @property
    def spent(self) -> float:
        """Dense-run equivalents, those on small clips included."""
        return self.judge.spent + (self.small.judge.spent if self.small is not None else 0.0)

    def _width(self, allowance: float) -> int:
        """How many candidates a round can begin with: of each so many more cases, half as many go on."""
        first = min(FIRST_CASES, len(self.cases))
        runs_each = 1.5 * first + len(self.cases) / 4.0
        return int(min(14, max(1, allowance / max(self.budget, 0.05) / runs_each)))

    def _room(self, end: float) -> bool:
        """Whether one more candidate can be judged on all cases."""
        return self.spent + self.budget * len(self.cases) <= end + 1e-6

    def _first(self, placed: Genome, end: float) -> list[Genome]:
        """What is run first, by turns: the same steps with ways to forecast that have gained most elsewhere, and that
        the replay ranks first; other steps near by; and other kinds.
        """
        kinds, forecasts = self._other_kinds(placed, end), initial_forecasts(self.setting)
        ways = [replace(placed, forecast=forecast) for forecast in forecasts]
        lists: list[list[Genome]] = [kinds, ways[::2], ways[1::2]]  # two ways a turn: they decide more than places do
        if self.replay is not None and placed.whole:
            drawn = [replace(genome, forecast=way) for genome in self.baselines for way in forecasts[:2]]
            near = [genome for genome in self._evolved(drawn) if genome.budgets != placed.budgets]
            lists += [near[:POPULATION], self._ranked([replace(placed, forecast=forecast) for forecast in FORECASTS])]
        turns = [genome for turn in zip_longest(*lists) for genome in turn if genome is not None and genome != placed]
        return list(dict.fromkeys(turns))[: self._width((end - self.spent) * FOR_FIRST)]

    def _other_kinds(self, placed: Genome, end: float) -> list[Genome]:
        """Held steps, and steps computed in part, where they are not far behind on one case; best first.

        What steps in part cost is known once some were run. Those that are hopeful but take longer than the budget
        pays for are drawn again for less.
        """
        setting, evaluations = self.setting, self.setting.evaluations
        held = replace(placed, mode=HOLD.name)
        near = self.replay is None or not placed.whole or self._near_by_replay(held, placed)
        patterns = {draw(setting, self.budget): partial(draw, setting) for draw in (token_candidate, uniform_candidate)}
        in_part = {genome: draw for genome, draw in patterns.items() if not genome.whole}
        hopeful = self._hopeful([*([held] if near else []), *in_part], end)
        self._learn_prices(in_part)
        dear = [draw for genome, draw in in_part.items() if genome in hopeful and not self.fits_budget(genome)]
        cheaper = [self.prices.largest_affordable(draw, self.budget, evaluations) for draw in dear]
        hopeful |= self._hopeful([genome for genome in cheaper if genome is not None], end)
        return sorted(filter(self.fits_budget, hopeful), key=lambda genome: hopeful[genome].score, reverse=True)

    def _hopeful(self, genomes: Sequence[Genome], end: float) -> dict[Genome, Evaluation]:
        """Those that are not far behind on one case, as many as are run for half of what is left."""
        affordable = [genome for genome in dict.fromkeys(genomes) if self.fits_budget(genome)]
        affordable = affordable[: max(0, int((end - self.spent) / 2.0 / max(self.budget, 0.05)))]
        verdicts = self.judge.verdicts(affordable, self.cases[:1], self._limits(1))
        self.partly.update({v.genome: v for v in verdicts})
        return {v.genome: v for v in verdicts if not v.given_up and self._may_win(v, 1)}

    def _learn_prices(self, in_part: Iterable[Genome]) -> None:
        """What steps in part cost, by the runs of these on the first case beside those of the reference."""
        if self._fixed_prices:
            return
        outcomes, case, reference = self.judge.outcomes, self.cases[0], self.baselines[0]
        runs = [(genome, outcomes[case, genome]) for genome in in_part if (case, genome) in outcomes]
        whole = [(reference, outcomes[other, reference]) for other in self.cases] if reference.whole else []
        self.prices = measured(runs, whole, self.setting.evaluations)
        if self.best is not None and not self.fits_budget(self.best.genome):
            self.best = None
            self._settle(list(self.judged.values()))

    def _near_by_replay(self, genome: Genome, other: Genome) -> bool:
        assert self.replay is not None
        self.replay.learn(list(self.judge.outcomes.values()))
        return mean_psnr(self.replay.losses(genome)) > mean_psnr(self.replay.losses(other)) - 2.0 * BEHIND_DB

    def _seeds(self, allowance: float) -> list[Genome]:
        seeds = list(self.baselines)
        if self.replay is not None:
            self.replay.learn(list(self.judge.outcomes.values()))
            seeds += self._by_dynamic_programming()
        if allowance >= ENOUGH_FOR_PROBE:
            found = probe(self.judge, self.cases[0], self.replay)
            if found is not None:
                known = self.prices if self._fixed_prices else max(self.prices, found.prices, key=lambda p: p.floor)
                found = replace(found, prices=known)
                self._round([allotted(found, self.setting, self.budget)], self.spent + allowance / 4.0)
        return list(dict.fromkeys(seeds))

    def _by_dynamic_programming(self) -> list[Genome]:
        assert self.replay is not None
        replay, drawn = self.replay, self.baselines[0]
        forecasts = dict.fromkeys(verdict.genome.forecast for verdict in self._leaders(2))
        found = [cheapest(lambda genome: fmean(replay.losses(genome)), Genome(drawn.budgets, way)) for way in forecasts]
        return [genome for genome in found if genome is not None and self.fits_budget(genome)]

    def fits_budget(self, genome: Genome) -> bool:
        """Whether the budget pays for it: it takes no longer than the whole steps that it pays for."""
        return self.prices.of_run(genome.budgets, self.setting.evaluations) <= self.budget * 1.005

    def _evolved(self, population: Sequence[Genome]) -> list[Genome]:
        """All that some generations of replayed evolution came upon, best first; without replay: with mutants."""
        pool = list(dict.fromkeys(population))
        if self.replay is None:
            return [*pool, *self._mutants()]
        self.replay.learn(list(self.judge.outcomes.values()))
        ways = dict.fromkeys((v.genome.forecast, v.genome.mode) for v in self._leaders(3))
        whole = [genome for genome in pool if genome.whole]
        whole += [replace(genome, forecast=forecast, mode=mode) for genome in whole for forecast, mode in ways]
        ranked = self._ranked(whole)
        for _ in range(GENERATIONS if ranked else 0):
            children = [self._child(ranked[:POPULATION]) for _ in range(CHILDREN)]
            ranked = self._ranked([*ranked, *children])
        return ranked

    def _mutants(self) -> list[Genome]:
        """Children of the best that were run."""
        parents = [verdict.genome for verdict in self._leaders(POPULATION)]
        children = (self._child(parents) for _ in range(CHILDREN))
        return [child for child in dict.fromkeys(children) if self.fits_budget(child)]

    def _child(self, parents: Sequence[Genome]) -> Genome:
        """A parent changed, or two mixed, within the budget. Better parents, which come first, are taken oftener."""
        rng = self.rng
        first = parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]
        if not first.whole:
            return moved(first, rng)
        if rng.random() < 0.25:
            second = rng.choice(parents)
            if second.whole:
                mixed = replace(first, budgets=tuple(uniform_crossover(first.budgets, second.budgets, rng)))
                first = most_steps(mixed, self.setting.evaluations, self.budget, rng)
        child = moved(first, rng, rng.choice((0, 1, 1, 2)))
        return other_forecast(child, rng) if rng.random() < 0.25 and child.mode == DEFAULT_MODE else child

    def _ranked(self, genomes: Sequence[Genome]) -> list[Genome]:
        """By replayed PSNR, corrected by how real runs with the same way to forecast came out against it, and doubted
        the more the farther from what real runs know.
        """
        assert self.replay is not None
        replay, offset = self.replay, self._offsets()

        def score(genome: Genome) -> float:
            return mean_psnr(replay.losses(genome)) + offset(genome) - self._doubt(genome)

        return sorted(dict.fromkeys(g for g in genomes if self.fits_budget(g)), key=score, reverse=True)

    def _doubt(self, genome: Genome) -> float:
        """dB by which what is replayed may be too good: where gaps are wider than real runs have shown, most of all."""
        known = self.baselines[0].budgets
        moved_steps = sum(a != b for a, b in zip(genome.budgets, known, strict=True)) / 2.0
        return MOVED_DB * moved_steps + WIDER_DB * max(0, longest_skip(genome.budgets) - longest_skip(known))

    def _offsets(self) -> Callable[[Genome], float]:
        """Real minus replayed dB, by way to forecast; where few runs tell, what the way has gained elsewhere counts."""
        assert self.replay is not None
        usual = cache(partial(prior_gain, setting=self.setting))
        seen: dict[tuple, list[float]] = {}  # beyond what was usual
        for genome, verdict in {**self.partly, **self.judged}.items():
            if genome.whole and not verdict.given_up:
                replayed = self.replay.losses(genome)[: len(verdict.losses)]
                beyond = verdict.score - mean_psnr(replayed) - usual(genome.forecast)
                seen.setdefault((genome.forecast, genome.mode), []).append(beyond)
        mean = fmean(value for values in seen.values() for value in values) if seen else 0.0
        told = {way: math.fsum([*values, mean]) / (len(values) + 1) for way, values in seen.items()}
        return lambda genome: told.get((genome.forecast, genome.mode), mean) + usual(genome.forecast)

    def _chosen(self, ranked: Sequence[Genome], width: int) -> list[Genome]:
        """The first so many that were not run yet, not all of one way to forecast."""
        chosen: list[Genome] = []
        for genome in ranked:
            alike = sum((g.forecast, g.mode) == (genome.forecast, genome.mode) for g in chosen)
            if genome not in self.partly and genome not in self.judged and alike < PER_FORECAST:
                chosen.append(genome)
            if len(chosen) == width:
                break
        return chosen

    def _round(self, genomes: Sequence[Genome], end: float) -> bool:
        """Successive halving: on the first cases, then the better half on twice as many, until all. False: no more
        could be run.
        """
        running = [genome for genome in dict.fromkeys(genomes) if self.fits_budget(genome)]
        if not running:
            return False
        count = min(FIRST_CASES, len(self.cases))
        while running:
            affordable = int((end - self.spent) / max(self.budget, 0.05) / count + 1e-6)
            running = running[: max(0, affordable)]
            verdicts = self.judge.verdicts(running, self.cases[:count], self._limits(count))
            self.partly.update({v.genome: v for v in verdicts})
            if count == len(self.cases):
                self._settle(verdicts)
                return bool(running)
            hopeful = [v for v in verdicts if not v.given_up and self._may_win(v, count)]
            hopeful.sort(key=self.merit, reverse=True)
            running = [v.genome for v in hopeful[: max(1, (len(verdicts) + 1) // 2)]]
            count = min(len(self.cases), 2 * count)
        return self._room(end)

    def _may_win(self, verdict: Evaluation, count: int) -> bool:
        """Whether it is not clearly behind the best on these cases, or is expected to gain by what small clips told."""
        if self._is_found(verdict.genome):
            return self.merit(verdict) > 0.0
        slack = BEHIND_DB / math.sqrt(count)
        return self.best is None or verdict.score > mean_psnr(self.best.losses[:count]) - slack

    def _limits(self, count: int) -> dict[int, tuple[float, ...]] | None:
        if self.best is None:
            return None
        return self.judge.limits(self.best.genome, self.cases[:count], SLACK_DB)

    def take(self, genome: Genome) -> bool:
        """Settle a candidate as soon as it has been run on all cases; whether it is a new best."""
        outcomes = [self.judge.outcomes.get((case, genome)) for case in self.cases]
        losses = tuple(outcome.loss for outcome in outcomes if outcome is not None)
        before = self.best
        if len(losses) == len(self.cases) and self.fits_budget(genome):
            self._settle([Evaluation(genome, losses)])
        return self.best is not before

    def _settle(self, verdicts: Sequence[Evaluation]) -> None:
        """Take candidates judged on all cases."""
        for verdict in verdicts:
            if verdict.given_up:
                continue
            self.judged[verdict.genome] = verdict
            if self.fits_budget(verdict.genome) and self._is_best(verdict):
                self.best = verdict

    def _leaders(self, count: int) -> list[Evaluation]:
        return sorted(self.judged.values(), key=self.merit, reverse=True)[:count]

    def _is_best(self, verdict: Evaluation) -> bool:
        """Better than without a search (what small clips found: not clearly worse), and of the most merit."""
        if self.best is None or self.reference is None:
            return self.best is None
        reference = self.reference.losses
        losses = verdict.losses, reference
        stands = not significantly_worse(*losses) if self._is_found(verdict.genome) else beats_baseline(*losses)
        return stands and self.merit(verdict) - self.merit(self.best) >= NOTICEABLE_DB

    def _is_found(self, genome: Genome) -> bool:
        """Whether it was found on small clips."""
        return self.learnt is not None and genome in self.learnt.found

    def merit(self, verdict: Evaluation) -> float:
        """dB that it is expected to gain over what one has without a search; 0 for that itself."""
        reference = self.reference
        if reference is None or verdict.genome == reference.genome:
            return 0.0
        told = self.learnt.gains.get(verdict.genome) if self.learnt is not None else None
        before, skip_selftest = told or (self._expected_before(verdict.genome, reference.genome), PRIOR_STD_DB)
        return posterior_gain(verdict.losses, reference.losses, before, skip_selftest)

    def _expected_before(self, genome: Genome, reference: Genome) -> float:
        """What its way to forecast has gained elsewhere; half of what the replay tells of its places, and doubts."""
        before = prior_gain(genome.forecast, self.setting) - prior_gain(reference.forecast, self.setting)
        if genome.budgets == reference.budgets:
            return before
        before -= self._doubt(genome)
        if self.replay is None or not (genome.whole and reference.whole):
            return before
        alike = replace(reference, forecast=genome.forecast, mode=genome.mode)
        told = mean_psnr(self.replay.losses(genome)) - mean_psnr(self.replay.losses(alike))
        return before + min(1.0, max(-2.0, told / 2.0))
