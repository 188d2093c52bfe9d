"""Runs a whole search: dense runs, then one budget after the other; results are available at any time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from .evaluation.effort import Effort
from .evaluation.evaluator import Evaluation
from .evaluation.replay import Replay
from .evaluation.run_log import RunLog
from .methods.registry import METHODS, BudgetSearch
from .problem.candidate import Genome
from .problem.config import SearchConfig
from .problem.result import FoundSchedule, HistoryPoint, Progress, SearchResult
from .problem.runner import Outcome, Runner
from .proposals.initial import enough_budget


class BestsFound:
    """New bests of all budgets in the order they were found."""

    def __init__(self) -> None:
        self.points: list[HistoryPoint] = []
        self._noted: dict[float, Evaluation] = {}

    def note(self, searches: dict[float, BudgetSearch], cost: float) -> None:
        """Add a point for each budget whose best has changed."""
        for budget, search in searches.items():
            if search.best is not None and self._noted.get(budget) is not search.best:
                self._noted[budget] = search.best
                self.points.append(HistoryPoint(cost, budget, _mean_loss(search.best)))


class Search:
    """A search for schedules of some budgets.

    The same seed, sampling and effort find the same schedules, whether runs are new or in the run log; among candidates
    with partial steps only if `config.partial_step_overhead` is given, since a measured one varies.
    A budget below what `auto` computes in such a run is searched at what `auto` computes.
    watch: called after every run. Its exceptions and the runner's end `run`; `result` then returns what was found.
    """

    def __init__(
        self,
        runner: Runner,
        run_log: RunLog,
        config: SearchConfig,
        watch: Callable[[Progress], None] = lambda progress: None,
    ):
        self.config, self.setting, self._bests_found = config, runner.setting, BestsFound()
        self._budgets = {budget: enough_budget(runner.setting, budget) for budget in config.budgets}
        make_method, config = METHODS[config.method], replace(config, budgets=tuple(self._budgets.values()))
        self.method = make_method(runner, run_log, config, self._on_outcome, self._on_proxy_outcome)
        self.effort = Effort(self.method.evaluators, config.effort)
        self.searches: dict[float, BudgetSearch] = {}
        self._watch, self._stage = watch, ""
        self._replay: Replay | None = None
        self._finished = False

    def run(self) -> SearchResult:
        """Run the search to its end."""
        recordings = []
        for number, case in enumerate(self.method.cases, start=1):
            self._report(f"original {number} of {len(self.method.cases)}")
            recordings.append(self.method.evaluator.dense(case))
        if self.setting.weights is not None:
            self._replay = Replay(self.setting, recordings)
        left = sum(self._budgets.values())
        for budget, most in self._budgets.items():
            # In proportion to the budgets: as a run costs its budget, each budget gets about as many runs.
            share, left = most / left, left - most
            self._stage = f"budget {budget:g}"
            rng = random.Random(f"{self.config.seed} {budget:.4f}")
            search = self.method.search_for(most, rng, self.effort, self._replay)
            self.searches[budget] = search
            search.run((self.effort.planned - self.effort.cost) * share)
            self._note_best()
        self._finished = True
        self._report("done")
        return self.result()

    def result(self) -> SearchResult:
        """Return what has been found so far."""
        found = {
            budget: [self._found(budget, each) for each in search.results()] for budget, search in self.searches.items()
        }
        everything = [each for group in found.values() for each in group]
        return SearchResult(
            best=tuple(self._best(budget, group) for budget, group in found.items() if group),
            front=_pareto_front(everything),
            baselines=tuple(each for each in everything if each.is_baseline),
            tried=tuple((each.seconds, each.loss) for each in everything),
            history=tuple(self._bests_found.points),
            sensitivity=self._sensitivity(),
            dense_seconds=self.method.evaluator.step_seconds.of_dense(self.setting.calls_per_step),
            cost=self.effort.cost,
            proxy_cases=self.method.proxy_cases,
            finished=self._finished,
        )

    def _best(self, budget: float, found: Sequence[FoundSchedule]) -> FoundSchedule:
        best = self.searches[budget].best
        return found[0] if best is None else self._found(budget, best)

    def _found(self, budget: float, evaluation: Evaluation) -> FoundSchedule:
        search, times, calls = self.searches[budget], self.method.evaluator.step_seconds, self.setting.calls_per_step
        seconds, dense = times.of_run(evaluation.genome, calls), times.of_dense(calls)
        return FoundSchedule(
            schedule=evaluation.genome.schedule(self.setting.sigmas, family=self.setting.family),
            budget=budget,
            loss=_mean_loss(evaluation),
            losses=evaluation.losses,
            seconds=seconds,
            speedup=dense / seconds if seconds > 0.0 else 1.0,
            is_baseline=evaluation.genome in search.baselines[:1],
            partial_step_overhead=search.step_cost.partial_step_overhead,
        )

    def _sensitivity(self) -> tuple[float, ...]:
        """Return by step the loss if only that step is skipped, with the forecast of the first step-skipping best."""
        if self._replay is None or not self.searches:
            return ()
        bests = [search.best.genome for search in self.searches.values() if search.best is not None]
        step_skipping = [genome for genome in bests if not genome.has_partial_steps]
        return self._replay.sensitivity(step_skipping[0] if step_skipping else Genome((1.0,) * self.setting.steps))

    def _on_outcome(self, genome: Genome, case: int, outcome: Outcome, is_cached: bool) -> None:
        search = list(self.searches.values())[-1]
        is_best = search.on_outcome(genome)
        self._note_best()
        self._report(self._stage, is_best and not is_cached)

    def _on_proxy_outcome(self, genome: Genome, case: int, outcome: Outcome, is_cached: bool) -> None:
        self._report(f"{self._stage}, small clips")

    def _note_best(self) -> None:
        self._bests_found.note(self.searches, self.effort.cost)

    def _report(self, stage: str, improved: bool = False) -> None:
        found = [(budget, search.best) for budget, search in self.searches.items()]
        best = tuple(self._found(budget, each) for budget, each in found if each is not None)
        self._watch(Progress(stage, self.effort.cost, self.effort.planned, self.effort.seconds_left(), best, improved))


def _mean_loss(evaluation: Evaluation) -> float:
    """Return the loss whose PSNR is the mean PSNR over the cases."""
    return 10.0 ** (-evaluation.score / 10.0)


def _pareto_front(found: Sequence[FoundSchedule]) -> tuple[FoundSchedule, ...]:
    """Return those that no other one beats in both time and loss, fastest first."""
    front: list[FoundSchedule] = []
    for each in sorted(found, key=lambda f: (f.seconds, f.loss)):
        if not front or each.loss < front[-1].loss:
            front.append(each)
    return tuple(front)
