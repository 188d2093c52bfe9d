"""An interrupted search has results to show, and a resumed one finds what it would have found uninterrupted."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from toy_runner import ToyRunner

from astraea.schedules import mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.posterior_gain import beats_baseline
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.result import Progress, SearchResult
from astraea.search.proposals.initial import enough_budget
from astraea.search.ranking import successive_halving

SEARCHES = {
    "one budget": ({"steps": 6, "cases": 3}, (0.5,), 16.0),
    "three budgets": ({"steps": 6, "cases": 2}, (0.35, 0.5, 0.67), 16.0),
    "token steps": ({"steps": 6, "cases": 2}, (0.55,), 20.0),
    "no replay": ({"steps": 6, "cases": 2, "calls": 2}, (0.5,), 12.0),
}
EACH = pytest.mark.parametrize("name", SEARCHES)


class Stopped(Exception):
    """Raised as if a user stopped the search."""


class StopAfter:
    """Stops a search after this number of candidate runs."""

    def __init__(self, runs: int):
        self.left = runs

    def __call__(self, progress: Progress) -> None:
        if progress.stage.startswith("budget"):
            self.left -= 1
            if self.left <= 0:
                raise Stopped


@pytest.fixture(autouse=True)
def quick_searches(small_populations, monkeypatch):
    """Abort runs sooner, so that some are."""
    monkeypatch.setattr(successive_halving, "SLACK_DB", 0.0)


def search_of(name: str, path: Path | None = None, runs: int = 10**6, **changes) -> Search:
    toy, budgets, effort = SEARCHES[name]
    runner = ToyRunner(**toy)
    run_log = RunLog(path, runner.setting.identity)
    options = {"budgets": budgets, "effort": effort, "seed": 0, **changes}
    return Search(runner, run_log, SearchConfig(**options), watch=StopAfter(runs))


def interrupted(name: str, path: Path | None, runs: int) -> Search:
    search = search_of(name, path, runs)
    with pytest.raises(Stopped):
        search.run()
    search.method.evaluator.run_log.close()
    return search


@cache
def uninterrupted(name: str) -> tuple[SearchResult, int]:
    """The result of an uninterrupted search, and its number of runs."""
    search = search_of(name)
    return search.run(), len(search.method.evaluator.outcomes)


@EACH
def test_resumed_after_any_number_of_runs_it_finds_the_same(tmp_path, name):
    expected, total = uninterrupted(name)
    for runs in sorted({1, total // 3, 3 * total // 4, total}):
        path = tmp_path / f"{runs}.jsonl"
        interrupted(name, path, runs)
        again = search_of(name, path)
        assert again.run() == expected, f"interrupted after {runs} of {total} runs"
        assert again.effort.cache_hits >= runs


@EACH
def test_a_search_that_is_interrupted_again_and_again_finds_the_same(tmp_path, name):
    expected, total = uninterrupted(name)
    for runs in range(total // 6 + 1, total, total // 6 + 1):
        interrupted(name, tmp_path / "runs.jsonl", runs)
    assert search_of(name, tmp_path / "runs.jsonl").run() == expected


@EACH
def test_an_interrupted_search_shows_the_best_so_far(name):
    _, total = uninterrupted(name)
    for runs in range(1, total, 5):
        search = interrupted(name, None, runs)
        result = search.result()
        assert not result.finished
        assert result.cost == search.method.evaluator.cost
        for best in result.best:
            most = enough_budget(search.setting, best.budget)
            assert mean_budget(best.schedule.budgets, search.setting.calls_per_step) <= most * 1.005
            usual = next((other for other in result.baselines if other.budget == best.budget), best)
            assert best == usual or beats_baseline(best.losses, usual.losses)


def test_once_one_candidate_is_evaluated_there_is_a_result():
    cases = SEARCHES["one budget"][0]["cases"]
    assert interrupted("one budget", None, cases - 1).result().best == ()
    assert len(interrupted("one budget", None, cases).result().best) == 1


def test_interrupted_in_its_dense_runs_it_has_no_result():
    search = search_of("one budget")

    def stop(progress: Progress) -> None:
        raise Stopped

    search._watch = stop
    with pytest.raises(Stopped):
        search.run()
    result = search.result()
    assert (result.best, result.front, result.sensitivity, result.finished) == ((), (), (), False)


def test_logged_runs_of_another_search_make_no_difference(tmp_path):
    """Others complete runs that this one aborts, for other budgets or under other limits."""
    path = tmp_path / "runs.jsonl"
    for changes in ({"effort": 30.0}, {"seed": 5}, {"budgets": (0.67,)}):
        other = search_of("three budgets", path, **changes)
        other.run()
        other.method.evaluator.run_log.close()
    again = search_of("three budgets", path)
    assert again.run() == uninterrupted("three budgets")[0]
    assert again.effort.cache_hits > 10
    assert any(outcome.steps < 6 for outcome in again.method.evaluator.outcomes.values()), "some were aborted"


def test_a_crash_in_the_middle_of_a_line_costs_one_run(tmp_path):
    path, (expected, total) = tmp_path / "runs.jsonl", uninterrupted("one budget")
    interrupted("one budget", path, total)
    path.write_bytes(path.read_bytes()[:-25])
    again = search_of("one budget", path)
    assert again.run() == expected
    assert again.effort.cache_hits == total - 1


def test_all_logged_runs_are_used():
    run_log, results, made = RunLog(), [], []
    for _ in range(2):
        toy, budgets, effort = SEARCHES["one budget"]
        runner = ToyRunner(**toy)
        results.append(Search(runner, run_log, SearchConfig(budgets=budgets, effort=effort, seed=0)).run())
        made.append(len(runner.runs))
    assert results[0] == results[1]
    assert made[1] == 0
