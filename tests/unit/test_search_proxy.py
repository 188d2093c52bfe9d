"""Searches that run candidates on small clips first: costs, results in full size, and searches without any."""

from __future__ import annotations

from functools import cache
from statistics import fmean

import pytest
from toy_runner import ToyRunner

from astraea.schedules import mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluator
from astraea.search.evaluation.posterior_gain import measure_gains
from astraea.search.evaluation.run_log import RunLog
from astraea.search.methods.proxy import MIN_CASES, MIN_PROXY_GAIN_DB, TRANSFERRED_SHARE
from astraea.search.problem.candidate import Genome
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.result import Progress

pytestmark = pytest.mark.usefixtures("small_populations")
STEPS, CASES, BUDGET, EFFORT, SHARE = 16, 6, 0.4, 40.0, 0.1


class Watched:
    """A search that has been run, with its progress."""

    def __init__(
        self,
        share: float | None = SHARE,
        effort: float = EFFORT,
        run_log: RunLog | None = None,
        asked: bool = True,
        budgets: tuple[float, ...] = (BUDGET,),
        **toy: float,
    ):
        self.runner = ToyRunner(STEPS, CASES, proxy_cost=share, **toy)
        self.seen: list[Progress] = []
        self.run_log = RunLog() if run_log is None else run_log
        config = SearchConfig(budgets=budgets, effort=effort, seed=0, use_proxy=asked)
        self.search = Search(self.runner, self.run_log, config, watch=self.seen.append)
        self.result = self.search.run()

    @property
    def proxy_runs(self) -> int:
        return len(self.runner.proxy_runner.runs)


@cache
def watched() -> Watched:
    return Watched()


def test_placements_are_run_on_small_clips():
    runs = watched().runner.proxy_runner.runs
    cases = [case for case, _ in runs]
    assert len(runs) > 50
    assert len(set(cases)) >= MIN_CASES
    calls_per_step = watched().runner.setting.calls_per_step
    assert {round(mean_budget(schedule.budgets, calls_per_step), 3) for _, schedule in runs} == {0.375}
    assert len({schedule.budgets for _, schedule in runs}) > 5


def test_the_cost_is_what_was_computed_in_both_sizes():
    run = watched()
    full_size, small = run.search.method.evaluators
    for evaluator, share in ((small, SHARE), (full_size, 1.0)):
        computed = sum(outcome.computed for outcome in evaluator.outcomes.values()) / sum(
            run.runner.setting.calls_per_step
        )
        assert evaluator.cost == pytest.approx(share * (computed + len(evaluator._dense)))
    assert run.result.cost == pytest.approx(small.cost + full_size.cost)
    assert 0.2 * EFFORT < small.cost < 0.6 * EFFORT
    assert run.result.cost <= EFFORT * 1.005


def test_what_was_found_there_is_run_in_full_size_first():
    run = watched()
    result = run.search.searches[BUDGET].standings._proxy
    tried = list(dict.fromkeys((schedule.budgets, schedule.forecast) for _, schedule in run.runner.runs))
    found = [(genome.budgets, genome.forecast) for genome in result.found]
    assert tried[1 : 1 + len(found)] == found


def test_after_small_clips_a_single_round_follows():
    """Evolution found nothing further there; it takes what is left without small clips only."""
    with_clips, without = watched(), Watched(share=None)
    assert len(with_clips.runner.runs) < len(without.runner.runs)
    assert without.result.cost > with_clips.result.cost > 0.5 * EFFORT


@pytest.mark.parametrize(("response", "budget"), [(1.0, BUDGET), (3.0, BUDGET), (1.0, 0.75)])
def test_steps_stay_unless_others_are_well_ahead(response: float, budget: float):
    search = Watched(response=response, effort=25.0, budgets=(budget,)).search
    standings, small = search.searches[budget].standings, search.method._proxy
    result, baseline = standings._proxy, standings.baseline.genome
    same_steps = next(genome for genome in result.gains if genome.budgets == baseline.budgets)
    ahead = [
        result.gains[genome][0] - result.gains[same_steps][0]
        for genome in result.gains
        if genome.forecast == same_steps.forecast
        if genome.budgets != baseline.budgets and (small.cases - 1, genome) in small.evaluator.outcomes
    ]
    moved = result.found[0].budgets != baseline.budgets
    assert moved == (max(ahead) >= TRANSFERRED_SHARE * MIN_PROXY_GAIN_DB)


def test_of_several_budgets_each_runs_what_was_found_on_all_cases():
    run = Watched(budgets=(0.6, 0.5, 0.4), effort=60.0)
    assert run.proxy_runs
    for search in run.search.searches.values():
        assert any(genome in search.standings.complete for genome in search.standings._proxy.found)
    assert run.result.cost <= 60.0 * 1.005


def test_many_budgets_leave_nothing_for_small_clips():
    assert not Watched(budgets=(0.8, 0.7, 0.6, 0.5, 0.4), effort=30.0).search.method._proxy


def gain_elsewhere(run: Watched, genome: Genome) -> float:
    """Gain in dB over the baseline, on a hundred cases that the search has not seen."""
    others = ToyRunner(STEPS, CASES, proxy_cost=SHARE, response=run.runner.response).proxy(200)
    baseline = run.search.searches[BUDGET].standings.baseline
    found, reference = Evaluator(others, RunLog()).evaluate([genome, baseline.genome], range(100, 200))
    return fmean(measure_gains(found.losses, reference.losses))


@pytest.mark.parametrize("response", [2.0])
def test_what_was_found_gains_on_other_cases_about_as_expected(response: float):
    run = Watched(response=response)
    result = run.search.searches[BUDGET].standings._proxy
    expected = result.gains[result.found[0]][0] / TRANSFERRED_SHARE
    gained = gain_elsewhere(run, result.found[0])
    assert gained > 0.5
    assert 0.5 * expected < gained < 1.5 * expected


def test_there_is_progress_and_it_says_so():
    stages = [progress.stage for progress in watched().seen]
    assert sum(stage == f"budget {BUDGET:g}, small clips" for stage in stages) == watched().proxy_runs
    spent = [progress.cost for progress in watched().seen]
    assert spent == sorted(spent)
    assert stages[-1] == "done"


def test_proxy_runs_are_logged_apart_from_full_size_ones():
    first = watched()
    again = Watched(run_log=first.run_log)
    assert (again.proxy_runs, len(again.runner.runs)) == (0, 0)
    assert again.search.effort.cache_hits == again.search.effort.runs == first.search.effort.runs
    assert again.result.best[0].schedule == first.result.best[0].schedule
    assert again.result.cost == pytest.approx(first.result.cost)


def test_more_effort_resumes_from_less():
    first = Watched(effort=20.0)
    more = Watched(effort=EFFORT, run_log=first.run_log)
    assert more.search.effort.cache_hits > 0


@pytest.mark.parametrize(
    ("share", "effort"), [(None, EFFORT), (0.9, EFFORT), (SHARE, 6.0)], ids=["none", "dear", "too little effort"]
)
def test_without_small_clips_it_searches_all_the_same(share: float | None, effort: float):
    run = Watched(share, effort)
    assert run.runner.proxy_runner is None or not run.proxy_runs
    assert run.search.searches[BUDGET].standings._proxy is None
    assert run.result.best


def test_there_are_none_unless_asked_for():
    run = Watched(asked=False)
    assert run.runner.proxy_runner is None
    assert run.search.effort.runs == len(run.search.method.evaluator.outcomes)


def test_samplers_of_several_calls_are_searched_on_small_clips_too():
    run = Watched(calls=2)
    assert run.proxy_runs > 50
    assert run.result.cost <= EFFORT * 1.005
    for _, schedule in run.runner.proxy_runner.runs:
        assert mean_budget(schedule.budgets, run.runner.setting.calls_per_step) <= BUDGET * 1.005
