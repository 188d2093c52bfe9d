"""The search method `astraea`: small clips first, then evolution by replay; instant if there is little effort."""

from __future__ import annotations

import random

from ..evaluation.effort import Effort, count_cases
from ..evaluation.evaluator import Evaluator, OnOutcome
from ..evaluation.replay import Replay
from ..evaluation.run_log import RunLog
from ..evaluation.step_cost import StepCost
from ..problem.config import SearchConfig
from ..problem.runner import Runner
from .evolution import Evolution
from .instant import InstantSearch, count_instant_cases
from .proxy import MAX_CASES, MIN_CASES, RUNS_PER_CASE, ProxySearch

EFFORT_PER_DENSE_RUN_WITH_PROXY = 7.5  # as in `effort`, where small clips decide most
PROXY_SHARE = 0.7  # largest share of what dense runs leave
MIN_EVALUATED = 3.5  # candidates to run on all cases for each budget, baseline included
EVALUATED_SHARE = 0.55  # of the effort that their runs and the dense runs may take
MAX_PROXY_COST = 0.5  # of a dense run; more expensive small clips are of no use
INSTANT_BELOW = 6.0  # dense-run equivalents: evolution needs more
PROXY_KEY = "small "  # prefix of proxy cases in the run log


class AstraeaMethod:
    """Fulfils `methods.Method`.

    evaluators: of full-size cases, then of proxy cases if there are any; cases: full-size ones to search on.
    """

    def __init__(
        self,
        runner: Runner,
        run_log: RunLog,
        config: SearchConfig,
        on_outcome: OnOutcome,
        on_proxy_outcome: OnOutcome,
    ):
        self.evaluator = Evaluator(runner, run_log, on_outcome)
        overhead = config.partial_step_overhead
        self._step_cost = StepCost(overhead) if overhead is not None else None
        self._is_instant = config.effort < INSTANT_BELOW
        proxy = proxy_runner(runner, config) if config.use_proxy and not self._is_instant else None
        self._proxy = ProxySearch(Evaluator(proxy, run_log, on_proxy_outcome, PROXY_KEY)) if proxy is not None else None
        dense_runs = dense_runs_with_proxy(config) if proxy is not None else None
        count = count_cases(runner.setting, config.effort, dense_runs)
        if self._is_instant:
            count = min(runner.setting.cases, count_instant_cases(config.budgets, config.effort))
        self.cases = range(count)

    @property
    def evaluators(self) -> tuple[Evaluator, ...]:
        return (self.evaluator,) if self._proxy is None else (self.evaluator, self._proxy.evaluator)

    @property
    def proxy_cases(self) -> int:
        return 0 if self._proxy is None else self._proxy.cases

    def search_for(
        self, budget: float, rng: random.Random, effort: Effort, replay: Replay | None
    ) -> Evolution | InstantSearch:
        """Return the search for one budget. replay: of the dense runs of all cases, shared by all budgets."""
        if self._is_instant:
            return InstantSearch(self.evaluator, replay, budget, rng, self._step_cost)
        return Evolution(self.evaluator, replay, self.cases, budget, rng, effort, self._step_cost, self._proxy)


def dense_runs_with_proxy(config: SearchConfig) -> int:
    """Return the number of full-size dense runs of a search with proxy cases; the more budgets, the fewer."""
    all_budgets = int(EVALUATED_SHARE * config.effort / (1.0 + MIN_EVALUATED * sum(config.budgets)))
    return min(round(config.effort / EFFORT_PER_DENSE_RUN_WITH_PROXY), all_budgets)


def proxy_runner(runner: Runner, config: SearchConfig) -> Runner | None:
    """Return a runner of as many small clips as the effort allows; None if these are too few or hardly cheaper."""
    smallest = runner.proxy(MIN_CASES)
    if smallest is None or smallest.setting.relative_cost > MAX_PROXY_COST:
        return None
    budgets = sum(config.budgets)
    dense = count_cases(runner.setting, config.effort, dense_runs_with_proxy(config))
    left = config.effort - dense
    case_cost = smallest.setting.relative_cost * (1.0 + RUNS_PER_CASE * budgets)
    cases = min(MAX_CASES, int(min(PROXY_SHARE * left, left - MIN_EVALUATED * dense * budgets) / case_cost))
    return runner.proxy(cases) if cases >= MIN_CASES else None
