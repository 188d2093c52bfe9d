"""Searches that place steps on small clips first: what it costs, what is taken from it, and when there are none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest
from toy_bench import ToyBench

from astraea.search.candidate import Genome, mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluator
from astraea.search.evaluation.posterior_gain import gains_of
from astraea.search.evaluation.run_log import RunLog
from astraea.search.proxy import MIN_CASES, MIN_PROXY_GAIN_DB, TRANSFER
from astraea.search.result import Progress

pytestmark = pytest.mark.usefixtures("small_populations")
STEPS, CASES, BUDGET, EFFORT, SHARE = 16, 6, 0.4, 40.0, 0.1


class Watched:
    """A search that has been run, with what it told on the way."""

    def __init__(
        self,
        share: float | None = SHARE,
        effort: float = EFFORT,
        memo: RunLog | None = None,
        asked: bool = True,
        budgets: tuple[float, ...] = (BUDGET,),
        **toy: float,
    ):
        self.bench = ToyBench(STEPS, CASES, small_share=share, **toy)
        self.told: list[Progress] = []
        self.memo = RunLog() if memo is None else memo
        options = {"budgets": budgets, "effort": effort, "seed": 0, "small_clips": asked}
        self.search = Search(self.bench, self.memo, watch=self.told.append, **options)
        self.result = self.search.run()

    @property
    def small_runs(self) -> int:
        return len(self.bench.small.runs)


@cache
def watched() -> Watched:
    return Watched()


def test_placements_are_run_on_small_clips_all_pairs_alike():
    runs = watched().bench.small.runs
    pairs = [case for case, _ in runs]
    assert len(runs) > 50
    assert len(set(pairs)) >= MIN_CASES
    evaluations = watched().bench.setting.evaluations
    assert {round(mean_budget(schedule.budgets, evaluations), 3) for _, schedule in runs} == {0.375}
    assert len({schedule.budgets for _, schedule in runs}) > 5


def test_what_is_spent_is_what_was_computed_in_both_sizes():
    run = watched()
    small, large = run.search._small.judge, run.search.judge
    for judge, share in ((small, SHARE), (large, 1.0)):
        computed = sum(outcome.computed for outcome in judge.outcomes.values()) / sum(run.bench.setting.evaluations)
        assert judge.spent == pytest.approx(share * (computed + len(judge._dense)))
    assert run.result.spent == pytest.approx(small.spent + large.spent)
    assert 0.2 * EFFORT < small.spent < 0.6 * EFFORT
    assert run.result.spent <= EFFORT * 1.005


def test_what_was_found_there_is_run_in_full_size_first():
    run = watched()
    learnt = run.search._evolutions[BUDGET].learnt
    tried = list(dict.fromkeys((schedule.budgets, schedule.forecast) for _, schedule in run.bench.runs))
    found = [(genome.budgets, genome.forecast) for genome in learnt.found]
    assert tried[1 : 1 + len(found)] == found


@pytest.mark.parametrize(("answers", "budget"), [(1.0, BUDGET), (3.0, BUDGET), (1.0, 0.75)])
def test_steps_stay_where_they_are_unless_others_are_well_ahead(answers: float, budget: float):
    search = Watched(answers=answers, effort=25.0, budgets=(budget,)).search
    evolution, small = search._evolutions[budget], search._small
    learnt, drawn = evolution.learnt, evolution.reference.genome
    same_steps = next(genome for genome in learnt.gains if genome.budgets == drawn.budgets)
    ahead = [
        learnt.gains[genome][0] - learnt.gains[same_steps][0]
        for genome in learnt.gains
        # Only where the step before the last is reused does a forecast have a last response.
        if replace(genome.forecast, final_step_gain=0.0) == replace(same_steps.forecast, final_step_gain=0.0)
        if genome.budgets != drawn.budgets and (small.pairs - 1, genome) in small.judge.outcomes
    ]
    moved = learnt.found[0].budgets != drawn.budgets
    assert moved == (max(ahead) >= TRANSFER * MIN_PROXY_GAIN_DB)


def test_of_several_budgets_each_has_what_was_found_judged_on_all_cases():
    run = Watched(budgets=(0.6, 0.5, 0.4), effort=60.0)
    assert run.small_runs
    for evolution in run.search._evolutions.values():
        assert any(genome in evolution.judged for genome in evolution.learnt.found)
    assert run.result.spent <= 60.0 * 1.005


def test_many_budgets_leave_nothing_for_small_clips():
    assert not Watched(budgets=(0.8, 0.7, 0.6, 0.5, 0.4), effort=30.0).search._small


def gain_elsewhere(run: Watched, genome: Genome) -> float:
    """dB over what one has without a search, on a hundred pairs that the search has not seen."""
    others = ToyBench(STEPS, CASES, small_share=SHARE, answers=run.bench.answers).smaller(200)
    reference = run.search._evolutions[BUDGET].reference
    found, drawn = Evaluator(others, RunLog()).verdicts([genome, reference.genome], range(100, 200))
    return fmean(gains_of(found.losses, drawn.losses))


@pytest.mark.parametrize("answers", [2.0])
def test_what_was_found_there_is_better_elsewhere_about_as_promised(answers: float):
    run = Watched(answers=answers)
    learnt = run.search._evolutions[BUDGET].learnt
    promised = learnt.gains[learnt.found[0]][0] / TRANSFER
    gained = gain_elsewhere(run, learnt.found[0])
    assert gained > 0.5
    assert 0.5 * promised < gained < 1.5 * promised


def test_there_is_progress_and_it_says_so():
    stages = [progress.stage for progress in watched().told]
    assert sum(stage == f"budget {BUDGET:g}, small clips" for stage in stages) == watched().small_runs
    spent = [progress.spent for progress in watched().told]
    assert spent == sorted(spent)
    assert stages[-1] == "done"


def test_small_runs_are_remembered_and_apart_from_large_ones():
    first = watched()
    again = Watched(memo=first.memo)
    assert (again.small_runs, len(again.bench.runs)) == (0, 0)
    assert again.search.cache_hits == again.search.runs == first.search.runs
    assert again.result.best[0].schedule == first.result.best[0].schedule
    assert again.result.spent == pytest.approx(first.result.spent)


def test_more_effort_goes_on_from_less():
    first = Watched(effort=20.0)
    more = Watched(effort=EFFORT, memo=first.memo)
    assert more.search.cache_hits > 0


@pytest.mark.parametrize(
    ("share", "effort"), [(None, EFFORT), (0.9, EFFORT), (SHARE, 3.0)], ids=["none", "dear", "too little effort"]
)
def test_without_small_clips_it_searches_all_the_same(share: float | None, effort: float):
    run = Watched(share, effort)
    assert run.bench.small is None or not run.small_runs
    assert run.search._evolutions[BUDGET].learnt is None
    assert run.result.best


def test_there_are_none_unless_asked_for():
    run = Watched(asked=False)
    assert run.bench.small is None
    assert run.search.runs == len(run.search.judge.outcomes)


def test_samplers_of_several_calls_are_searched_on_small_clips_too():
    run = Watched(calls=2)
    assert run.small_runs > 50
    assert run.result.spent <= EFFORT * 1.005
    for _, schedule in run.bench.small.runs:
        assert mean_budget(schedule.budgets, run.bench.setting.evaluations) <= BUDGET * 1.005
