"""A whole search on a toy runner: its limits, results and progress."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
from toy_runner import ToyRunner

from astraea.errors import SearchError
from astraea.schedules import mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.effort import EFFORT_PER_DENSE_RUN
from astraea.search.evaluation.evaluator import Evaluator
from astraea.search.evaluation.posterior_gain import beats_baseline
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.candidate import Genome, forecasts_like
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.result import Progress, SearchResult
from astraea.search.proposals.initial import enough_budget, usual_candidate
from astraea.search.ranking.forecast_priors import expected_forecast_gain

# Toy, budgets, effort.
SEARCHES = {
    "one budget": ({"steps": 8, "cases": 3}, (0.5,), 16),
    "three budgets": ({"steps": 8, "cases": 3}, (0.3, 0.5, 0.7), 24),
    "unordered budgets": ({"steps": 7, "cases": 2}, (0.7, 0.3, 0.45), 12),
    "token steps": ({"steps": 8, "cases": 2}, (0.55,), 48),
    "instant": ({"steps": 8, "cases": 3}, (0.5,), 3),
    "instant, a large budget": ({"steps": 8, "cases": 3}, (0.7,), 3),
    "instant, no replay": ({"steps": 8, "cases": 2, "calls": 2}, (0.5,), 3),
    "instant, one step more than the ends": ({"steps": 4, "cases": 2}, (0.75,), 3),
    "least effort beyond instant": ({"steps": 8, "cases": 2}, (0.5,), 6),
    "one case": ({"steps": 8, "cases": 1}, (0.5,), 8),
    "more cases than the effort allows": ({"steps": 8, "cases": 9}, (0.4,), 16),
    "three steps": ({"steps": 3, "cases": 2}, (0.7, 0.9), 14),
    "more effort than candidates": ({"steps": 3, "cases": 2}, (0.7,), 60),
    "no replay": ({"steps": 8, "cases": 2, "calls": 2}, (0.5,), 24),
    "ending above sigma 0": ({"steps": 8, "cases": 2, "end": 0.1}, (0.4,), 8),
    "full budget": ({"steps": 6, "cases": 2}, (1.0,), 6),
    "barely the ends": ({"steps": 8, "cases": 2}, (0.25,), 8),
    "less than the ends": ({"steps": 8, "cases": 2}, (0.15,), 14),
}
TOO_SHORT = {
    "one step": ({"steps": 1, "cases": 2}, (0.5,), 14),
    "two steps": ({"steps": 2, "cases": 2}, (0.5, 0.8), 14),
}
EACH = pytest.mark.parametrize("name", SEARCHES)


class Watched:
    """A search that has been run, with its progress."""

    def __init__(self, name: str, seed: int = 0):
        toy, self.budgets, self.effort = (SEARCHES | TOO_SHORT)[name]
        self.runner = ToyRunner(**toy)
        self.seen: list[Progress] = []
        self.made: list[int] = []  # number of runs made at each progress
        self.search = Search(
            self.runner, RunLog(), SearchConfig(budgets=self.budgets, effort=self.effort, seed=seed), watch=self._watch
        )
        self.result = self.search.run()

    def _watch(self, progress: Progress) -> None:
        self.seen.append(progress)
        self.made.append(len(self.runner.runs))

    def mean(self, budgets: tuple[float, ...]) -> float:
        return mean_budget(budgets, self.runner.setting.calls_per_step)


@cache
def watched(name: str) -> Watched:
    return Watched(name)


@EACH
def test_one_result_per_budget_in_their_order(name):
    assert [best.budget for best in watched(name).result.best] == list(watched(name).budgets)


@EACH
def test_what_is_found_is_within_its_budget(name):
    run = watched(name)
    for found in (*run.result.best, *run.result.front, *run.result.baselines):
        assert run.mean(found.schedule.budgets) <= enough_budget(run.search.setting, found.budget) * 1.005
        assert found.schedule.budgets[0] == 1.0


@EACH
def test_every_candidate_is_within_a_budget(name):
    run = watched(name)
    most = max(enough_budget(run.search.setting, budget) for budget in run.budgets)
    assert all(run.mean(schedule.budgets) <= most * 1.005 for _, schedule in run.runner.runs)


def test_a_budget_below_what_auto_computes_is_searched_at_that():
    run = watched("less than the ends")
    setting = run.search.setting
    computed = usual_candidate(setting, enough_budget(setting, 0.15)).budgets
    found = run.result.best[0]
    assert (found.budget, len(computed)) == (0.15, 8)
    assert 2.0 < sum(computed) < 8.0, "more than both ends"
    assert run.mean(found.schedule.budgets) > 0.8 * run.mean(computed)


@EACH
def test_no_more_is_spent_than_asked_for_after_the_baselines(name):
    run = watched(name)
    cases = len(run.search.method.evaluator._dense)
    least = cases + cases * sum(run.budgets)
    assert run.result.cost <= max(run.effort, least) * 1.005


@EACH
def test_the_cost_is_what_was_computed(name):
    run = watched(name)
    evaluator, calls = run.search.method.evaluator, sum(run.runner.setting.calls_per_step)
    computed = sum(outcome.computed for outcome in evaluator.outcomes.values())
    assert len(evaluator.outcomes) == len(run.runner.runs), "none was run twice"
    assert run.result.cost == pytest.approx(len(evaluator._dense) + computed / calls)


@EACH
def test_the_best_is_ahead_of_the_usual_candidate_or_is_that(name):
    result = watched(name).result
    for best, baselines in zip(result.best, result.baselines, strict=True):
        assert best == baselines or beats_baseline(best.losses, baselines.losses)
        assert best.is_baseline == (best == baselines)


def test_of_the_candidates_that_a_search_begins_with_one_is_the_baseline():
    run = watched("one budget")
    (search,) = run.search.searches.values()
    evaluations = [search.standings.complete.get(genome) for genome in search.baselines]
    found = [run.search._found(0.5, each) for each in evaluations if each is not None]
    assert len(search.baselines) > 1
    assert found
    assert [each.is_baseline for each in found] == [True] + [False] * (len(found) - 1)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("one budget", 1.0),
        ("token steps", 1.0),
        ("no replay", 1.0),
        ("ending above sigma 0", 1.0),
    ],
)
def test_a_search_is_worth_its_effort(name, least):
    result = watched(name).result
    assert result.best[0].psnr > result.baselines[0].psnr + least


@EACH
def test_losses_found_are_those_of_a_run(name):
    run = watched(name)
    evaluator = Evaluator(ToyRunner(**SEARCHES[name][0]), RunLog())
    for best in run.result.best:
        genome = Genome(best.schedule.budgets, best.schedule.forecast, best.schedule.mode)
        evaluation = evaluator.evaluate([genome], range(len(best.losses)))[0]
        assert best.losses == evaluation.losses
        assert best.psnr == pytest.approx(evaluation.score)


@pytest.mark.parametrize(("name", "dense"), [("instant", 2), ("instant, a large budget", 1), ("instant, no replay", 2)])
def test_an_instant_search_checks_one_candidate_against_the_usual_one(name, dense):
    run = watched(name)
    assert len(run.search.method.evaluator._dense) == dense
    assert len(run.runner.runs) == (1 if "no replay" in name else 2), "the usual candidate, and one found by replay"
    assert {case for case, _ in run.runner.runs} == {0}
    assert run.result.cost <= 3.0


def test_with_enough_effort_partial_steps_are_tried():
    run = watched("token steps")
    affordable = [s.budgets for _, s in run.runner.runs if run.mean(s.budgets) <= 0.55 * 1.005]
    assert any(0.0 < budget < 1.0 for budgets in affordable for budget in budgets[1:-1])


def test_the_best_is_run_on_all_cases_of_the_search():
    run = watched("more cases than the effort allows")
    assert len(run.result.best[0].losses) == round(run.effort / EFFORT_PER_DENSE_RUN) < run.runner.setting.cases


@pytest.mark.parametrize("name", ["three budgets", "unordered budgets", "one budget"])
def test_the_front_is_sorted_and_nothing_found_beats_it(name):
    result = watched(name).result
    front = [(found.seconds, found.loss) for found in result.front]
    assert front == sorted(front)
    assert [loss for _, loss in front] == sorted({loss for _, loss in front}, reverse=True)
    for seconds, loss in result.tried:
        assert any(f[0] <= seconds and f[1] <= loss for f in front)


def test_seconds_are_those_of_the_steps():
    run = watched("one budget")
    best = run.result.best[0]
    nominal = [1.0 if b == 1.0 else 0.01 if b == 0.0 else 0.05 + 0.95 * b for b in best.schedule.budgets]
    assert run.result.dense_seconds == pytest.approx(8.0)
    assert best.seconds == pytest.approx(sum(nominal))
    assert best.speedup == pytest.approx(8.0 / best.seconds)


@EACH
def test_sensitivity_is_known_by_step_with_replay(name):
    run = watched(name)
    is_replayed = run.runner.setting.weights is not None
    assert len(run.result.sensitivity) == (run.runner.setting.steps if is_replayed else 0)


@EACH
def test_history_has_each_new_best_of_a_budget(name):
    result = watched(name).result
    for best in result.best:
        points = [point for point in result.history if point.budget == best.budget]
        assert points[-1].loss == best.loss
        assert [m.cost for m in points] == sorted(m.cost for m in points)


def test_a_budget_asked_for_twice_is_searched_once():
    def result(budgets: tuple[float, ...]) -> SearchResult:
        return Search(ToyRunner(steps=6), RunLog(), SearchConfig(budgets=budgets, effort=8, seed=0)).run()

    assert result((0.5, 0.7, 0.5)) == result((0.5, 0.7))


@pytest.mark.parametrize("name", TOO_SHORT)
def test_nothing_is_run_if_the_budget_is_too_small_for_the_ends(name):
    run = watched(name)
    assert (run.result.best, run.result.front, run.result.baselines) == ((), (), ())
    assert (run.result.finished, run.runner.runs) == (True, [])


# --- progress --------------------------------------------------------------------------------------------------


@EACH
def test_progress_is_reported_after_every_run(name):
    run = watched(name)
    assert set(run.made) >= set(range(1, len(run.runner.runs) + 1))
    spent = [progress.cost for progress in run.seen]
    assert spent == sorted(spent)
    assert all(progress.effort == run.effort for progress in run.seen)
    assert run.seen[0].stage.startswith("original 1 of ")
    assert run.seen[-1].stage == "done"


@EACH
def test_time_left_is_unknown_or_not_negative(name):
    left = [progress.seconds_left for progress in watched(name).seen]
    assert left[0] is None
    assert all(each is None or (math.isfinite(each) and each >= 0.0) for each in left)


@EACH
def test_a_new_best_is_reported_with_the_run_that_made_it(name):
    """A host shows its latents."""
    run = watched(name)
    for progress, made in zip(run.seen, run.made, strict=True):
        if progress.improved:
            assert run.runner.runs[made - 1][1].points in [best.schedule.points for best in progress.best]
    if len(run.budgets) == 1:  # else a candidate may be known from another budget
        assert sum(progress.improved for progress in run.seen) == len(run.result.history)


def test_a_cached_best_is_not_reported_as_new():
    run_log, seen = RunLog(), []
    toy, budgets, effort = SEARCHES["one budget"]
    Search(ToyRunner(**toy), run_log, SearchConfig(budgets=budgets, effort=effort, seed=0)).run()
    search = Search(ToyRunner(**toy), run_log, SearchConfig(budgets=budgets, effort=effort, seed=0), watch=seen.append)
    search.run()
    assert search.effort.cache_hits == len(search.method.evaluator.outcomes)
    assert not any(progress.improved for progress in seen)


# --- chance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["three budgets", "token steps", "no replay", "one case"])
def test_the_same_seed_finds_the_same(name):
    assert Watched(name).result == watched(name).result


def test_another_seed_may_find_something_else():
    assert Watched("no replay", seed=1).result.tried != watched("no replay").result.tried


@pytest.mark.usefixtures("small_populations")
def test_forecasts_that_were_not_run_are_ranked_by_their_prior_gains():
    search = Search(ToyRunner(steps=20), RunLog(), SearchConfig(budgets=(0.5,), effort=12, seed=0))
    search.run()
    (evolution,) = search.searches.values()
    reference, setting = evolution.baselines[0], search.setting
    seen = {
        evaluation.genome.forecast
        for evaluation in (*evolution.standings.complete.values(), *evolution.standings.partial.values())
    }
    evolution._ranking.replay.losses = lambda genome: (1e-4,) * setting.cases
    ranked = [
        g.forecast
        for g in evolution._ranking.rank([replace(reference, forecast=f) for f in forecasts_like(reference.forecast)])
    ]
    unseen = [expected_forecast_gain(each, setting) for each in ranked if each not in seen]
    assert unseen == sorted(unseen, reverse=True)
    assert len(set(unseen)) >= 3


def test_search_of_a_model_without_token_steps_tries_whole_steps_alone():
    toy, budgets, effort = SEARCHES["token steps"]
    with_tokens = Watched("token steps").runner
    runner = ToyRunner(**toy)
    runner.setting = replace(runner.setting, has_token_steps=False)
    Search(runner, RunLog(), SearchConfig(budgets=budgets, effort=effort, seed=0)).run()
    assert any(schedule.has_partial_steps for _, schedule in with_tokens.runs)
    assert runner.runs
    assert not any(schedule.has_partial_steps for _, schedule in runner.runs)
    with pytest.raises(SearchError, match="this model's blocks are not known"):
        Search(runner, RunLog(), SearchConfig(budgets=budgets, effort=effort, seed=0, method="paper"))
