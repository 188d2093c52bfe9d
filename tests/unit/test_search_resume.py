"""A search that is interrupted has something to show, and taken up again it finds what it would have found."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from toy_bench import ToyBench

from astraea.search import evolution
from astraea.search.candidate import mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.posterior_gain import beats_baseline
from astraea.search.evaluation.run_log import RunLog
from astraea.search.result import Progress, Result

SEARCHES = {
    "one budget": ({"steps": 6, "cases": 3}, (0.5,), 16.0),
    "three budgets": ({"steps": 6, "cases": 2}, (0.35, 0.5, 0.67), 16.0),
    "token steps": ({"steps": 6, "cases": 2}, (0.55,), 20.0),
    "no replay": ({"steps": 6, "cases": 2, "calls": 2}, (0.5,), 12.0),
}
EACH = pytest.mark.parametrize("name", SEARCHES)


class Stopped(Exception):
    """As a user stops a search."""


class StopAfter:
    """Watches a search and stops it after so many runs; the dense ones are told of, but none of those."""

    def __init__(self, runs: int):
        self.left = runs

    def __call__(self, progress: Progress) -> None:
        if progress.stage.startswith("budget"):
            self.left -= 1
            if self.left <= 0:
                raise Stopped


@pytest.fixture(autouse=True)
def quick_searches(small_populations, monkeypatch):
    """Runs are given up sooner, so that some are."""
    for name, size in {"ENOUGH_FOR_PROBE": 15.0, "SLACK_DB": 0.0}.items():
        monkeypatch.setattr(evolution, name, size)


def search_of(name: str, path: Path | None = None, runs: int = 10**6, **changes) -> Search:
    toy, budgets, effort = SEARCHES[name]
    bench = ToyBench(**toy)
    memo = RunLog(path, bench.setting.identity)
    wish = {"budgets": budgets, "effort": effort, "seed": 0, **changes}
    return Search(bench, memo, watch=StopAfter(runs), **wish)


def interrupted(name: str, path: Path | None, runs: int) -> Search:
    search = search_of(name, path, runs)
    with pytest.raises(Stopped):
        search.run()
    search.judge.memo.close()
    return search


@cache
def whole(name: str) -> tuple[Result, int]:
    """What it finds uninterrupted, in how many runs."""
    search = search_of(name)
    return search.run(), len(search.judge.outcomes)


@EACH
def test_taken_up_again_after_any_number_of_runs_it_finds_the_same(tmp_path, name):
    expected, total = whole(name)
    for runs in sorted({1, total // 3, 3 * total // 4, total}):
        path = tmp_path / f"{runs}.jsonl"
        interrupted(name, path, runs)
        again = search_of(name, path)
        assert again.run() == expected, f"interrupted after {runs} of {total} runs"
        assert again.cache_hits >= runs


@EACH
def test_a_search_that_is_interrupted_over_and_over_comes_to_the_same_end(tmp_path, name):
    expected, total = whole(name)
    for runs in range(total // 6 + 1, total, total // 6 + 1):
        interrupted(name, tmp_path / "memo.jsonl", runs)
    assert search_of(name, tmp_path / "memo.jsonl").run() == expected


@EACH
def test_an_interrupted_search_shows_the_best_so_far(name):
    _, total = whole(name)
    for runs in range(1, total, 5):
        search = interrupted(name, None, runs)
        result = search.result()
        assert not result.finished
        assert result.spent == search.judge.spent
        for best in result.best:
            assert mean_budget(best.schedule.budgets, search.setting.evaluations) <= best.budget * 1.005
            bundled = next((other for other in result.baselines if other.budget == best.budget), best)
            assert best == bundled or beats_baseline(best.losses, bundled.losses)


def test_as_soon_as_one_candidate_is_judged_there_is_a_result():
    cases = SEARCHES["one budget"][0]["cases"]
    assert interrupted("one budget", None, cases - 1).result().best == ()
    assert len(interrupted("one budget", None, cases).result().best) == 1


def test_interrupted_in_its_dense_runs_it_has_nothing_to_show():
    search = search_of("one budget")

    def stop(progress: Progress) -> None:
        raise Stopped

    search._watch = stop
    with pytest.raises(Stopped):
        search.run()
    result = search.result()
    assert (result.best, result.front, result.sensitivity, result.finished) == ((), (), (), False)


def test_what_the_memo_has_of_another_search_makes_no_difference(tmp_path):
    """Longer ones run in full what this one gives up, for other budgets or under other limits."""
    path = tmp_path / "memo.jsonl"
    for changes in ({"effort": 30.0}, {"seed": 5}, {"budgets": (0.67,)}):
        other = search_of("three budgets", path, **changes)
        other.run()
        other.judge.memo.close()
    again = search_of("three budgets", path)
    assert again.run() == whole("three budgets")[0]
    assert again.cache_hits > 10
    assert any(outcome.steps < 6 for outcome in again.judge.outcomes.values()), "some were given up"


def test_a_crash_in_the_middle_of_a_line_costs_one_run(tmp_path):
    path, (expected, total) = tmp_path / "memo.jsonl", whole("one budget")
    interrupted("one budget", path, total)
    path.write_bytes(path.read_bytes()[:-25])
    again = search_of("one budget", path)
    assert again.run() == expected
    assert again.cache_hits == total - 1


def test_all_that_was_measured_is_recalled():
    memo, results, made = RunLog(), [], []
    for _ in range(2):
        toy, budgets, effort = SEARCHES["one budget"]
        bench = ToyBench(**toy)
        results.append(Search(bench, memo, budgets=budgets, effort=effort, seed=0).run())
        made.append(len(bench.runs))
    assert results[0] == results[1]
    assert made[1] == 0
