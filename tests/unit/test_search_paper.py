"""The paper's search; provenance of schedules found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from itertools import pairwise

import pytest
from toy_runner import ToyRunner

from astraea.errors import ScheduleError
from astraea.schedules import expected_of, load, mean_budget, save
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluation, Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.methods.paper import BAND, BUDGETS, CHILDREN, POPULATION, PaperSearch
from astraea.search.problem.candidate import Genome
from astraea.search.problem.config import PAPER, SearchConfig
from astraea.search.problem.provenance import as_schedule
from astraea.search.problem.result import Progress, SearchResult
from astraea.search.problem.runner import SamplingConfig

BUDGET, LIMIT = 0.5, 130.0
CONFIG = SearchConfig(budgets=(0.5, 0.7), effort=8, seed=4)


class PaperRun:
    """The paper's search, with the best after each candidate."""

    def __init__(self, seed: int = 0, limit: float = LIMIT, kind: type[PaperSearch] = PaperSearch):
        self.runner = ToyRunner(steps=8, cases=2)
        self.search = kind(Evaluator(self.runner, RunLog()), [0, 1], BUDGET, random.Random(seed))
        self.bests: list[Evaluation] = []
        self.sizes: list[int] = []
        self._add, self.search._add = self.search._add, self._add_and_note  # type: ignore[method-assign]
        self.search.run(limit)

    def _add_and_note(self, genome: Genome) -> None:
        before = len(self.search.population)
        self._add(genome)
        if len(self.search.population) > before and self.search.best is not None:
            self.bests.append(self.search.best)
            self.sizes.append(len(self.search.population))


@cache
def paper_run() -> PaperRun:
    return PaperRun()


def error(evaluation: Evaluation) -> float:
    return sum(evaluation.losses) / len(evaluation.losses)


def test_a_population_is_filled_then_grows_by_children_and_the_best_survive():
    sizes = paper_run().sizes
    assert sizes[:POPULATION] == list(range(1, POPULATION + 1))
    assert max(sizes) <= POPULATION + CHILDREN
    after_generations = [after for before, after in pairwise(sizes) if after < before]
    assert set(after_generations) == {POPULATION + 1}, "with the first child of the next one"


def test_every_candidate_keeps_the_band_and_the_ends():
    runner = paper_run().runner
    for _, schedule in runner.runs:
        mean = mean_budget(schedule.budgets, runner.setting.calls_per_step)
        assert BAND[0] * BUDGET <= mean <= BAND[1] * BUDGET
        assert schedule.budgets[0] == 1.0
        assert schedule.budgets[-1] >= 0.5
        assert set(schedule.budgets) <= set(BUDGETS)


def test_the_mean_square_error_only_falls():
    errors = [error(best) for best in paper_run().bests]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[POPULATION - 1], "generations find something better than the random population"


def test_the_best_is_passed_on():
    run = paper_run()
    assert run.bests[-1] == run.search.best == min(run.search.population, key=error)


def test_it_ends_when_its_limit_is_reached():
    spent = paper_run().search.evaluator.cost
    assert LIMIT <= spent <= LIMIT + 2 * BAND[1] * BUDGET


def test_it_may_end_while_the_population_is_being_filled():
    run = PaperRun(limit=5.0)
    assert 0 < len(run.search.population) < POPULATION
    assert run.search.best is not None


def test_without_anything_to_spend_it_has_no_best():
    assert PaperRun(limit=0.0).search.best is None


def test_the_same_seed_finds_the_same_and_another_something_else():
    first, again, other = PaperRun(limit=12.0), PaperRun(limit=12.0), PaperRun(seed=1, limit=12.0)
    assert first.search.population == again.search.population
    assert first.search.population != other.search.population


class MakesAllRuns(PaperSearch):
    """Runs every candidate on every case, in one go."""

    def _evaluate(self, genome):
        return self.evaluator.evaluate([genome], self.cases)[0]


@pytest.mark.parametrize("seed", [1])
def test_leaving_out_what_cannot_survive_changes_nothing_but_the_runs(seed):
    few, every = PaperRun(seed, 300.0), PaperRun(seed, 300.0, kind=MakesAllRuns)
    assert few.bests == every.bests
    assert few.sizes == every.sizes
    assert few.search.evaluator.cost == pytest.approx(every.search.evaluator.cost)
    survivors = [sorted(run.search.population, key=error)[:POPULATION] for run in (few, every)]
    assert survivors[0] == survivors[1]
    assert len(few.runner.runs) < len(every.runner.runs) - 20


# --- as a method of the search ------------------------------------------------------------------------------------


class Stopped(Exception):
    """Raised as if a user stopped the search."""


def search_by_paper(
    run_log: RunLog | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    toy: ToyRunner | None = None,
    **changes,
) -> Search:
    options = {"budgets": (0.5, 0.7), "effort": 40.0, "seed": 4, "method": PAPER, **changes}
    run_log = RunLog() if run_log is None else run_log
    return Search(toy or ToyRunner(steps=8, cases=3), run_log, SearchConfig(**options), watch)


@cache
def paper_result() -> SearchResult:
    return search_by_paper().run()


def test_the_method_finds_a_schedule_per_budget_within_the_band():
    result = paper_result()
    assert [best.budget for best in result.best] == [0.5, 0.7]
    for best in result.best:
        assert BAND[0] * best.budget <= best.schedule.mean_budget <= BAND[1] * best.budget
    assert result.baselines == ()
    assert (result.finished, result.proxy_cases) == (True, 0)


def test_the_method_spends_its_effort():
    assert 40.0 <= paper_result().cost <= 40.0 + 2 * 3 * BAND[1] * 0.7


def test_the_method_reports_progress_and_history():
    seen: list[Progress] = []
    search_by_paper(watch=seen.append).run()
    assert [progress.stage for progress in seen[:3]] == [f"original {number} of 3" for number in (1, 2, 3)]
    assert {progress.stage for progress in seen[3:]} == {"budget 0.5", "budget 0.7", "done"}
    costs = [progress.cost for progress in seen]
    assert costs == sorted(costs)
    assert {point.budget for point in paper_result().history} == {0.5, 0.7}


def test_the_method_resumes_from_the_run_log_of_an_interrupted_search():
    run_log, runs = RunLog(), 0

    def stop(progress: Progress) -> None:
        nonlocal runs
        runs += progress.stage.startswith("budget")
        if runs == 20:
            raise Stopped

    stopped = search_by_paper(run_log, stop)
    with pytest.raises(Stopped):
        stopped.run()
    so_far = stopped.result()
    assert not so_far.finished
    assert [best.budget for best in so_far.best] == [0.5]
    resumed = search_by_paper(run_log)
    assert resumed.run() == paper_result()
    assert resumed.effort.cache_hits == 20


def test_the_method_uses_no_small_clips():
    toy = ToyRunner(steps=8, cases=3, proxy_cost=0.1)
    assert search_by_paper(toy=toy).run().proxy_cases == 0
    assert toy.proxy_runner is None


def test_the_method_ends_when_few_steps_allow_no_further_candidate():
    result = search_by_paper(toy=ToyRunner(steps=3, cases=2), budgets=(0.7,), effort=2000.0).run()
    assert result.finished
    assert result.cost < 1000.0
    assert result.best


def test_the_method_runs_nothing_if_no_repair_reaches_the_band():
    toy = ToyRunner(steps=2, cases=2)
    result = search_by_paper(toy=toy, budgets=(0.3,)).run()
    assert (result.best, result.finished, toy.runs) == ((), True, [])


def test_provenance_names_the_method():
    config = SearchConfig((0.5, 0.7), 40.0, 4, method=PAPER)
    found = as_schedule(paper_result().best[0], paper_result(), ToyRunner(steps=8, cases=3).setting, config, "paper")
    assert found.provenance["found"] == "searched: the paper's evolutionary search (arXiv 2506.05096, section 3.3)"


# --- provenance -------------------------------------------------------------------------------------------------


@cache
def searched() -> tuple[SearchResult, SamplingConfig]:
    runner = ToyRunner(steps=6, cases=2)
    return Search(runner, RunLog(), CONFIG).run(), runner.setting


def named(name: str = "mine-0.50", **changes):
    result, setting = searched()
    return as_schedule(result.best[0], replace(result, **changes), setting, CONFIG, name)


def test_a_found_schedule_comes_back_from_its_file(tmp_path):
    schedule = named()
    assert load(save(schedule, tmp_path)) == schedule


def test_it_is_the_one_that_was_found_under_its_new_name():
    found, schedule = searched()[0].best[0].schedule, named()
    assert (schedule.points, schedule.mode, schedule.forecast) == (found.points, found.mode, found.forecast)
    assert (schedule.name, schedule.family) == ("mine-0.50", "wan")


def test_it_expects_what_was_measured():
    best, expected = searched()[0].best[0], expected_of(named())
    assert expected is not None
    assert expected.psnr_db == pytest.approx(best.psnr, abs=0.01)
    assert expected.speedup == pytest.approx(best.speedup, abs=0.001)
    assert (expected.steps, expected.sampler, expected.cfg, expected.latent) == (6, "euler", 3.0, (1, 1, 64))
    assert expected.dense_seconds == pytest.approx(6.0)


def test_its_provenance_has_how_it_was_found():
    result, setting = searched()
    provenance = named().provenance
    assert provenance["search"] == {
        "effort": 8,
        "seed": 4,
        "floor": result.best[0].partial_step_overhead,
        "dense_run_equivalents": round(result.cost, 2),
        "identity": setting.identity,
    }
    assert len(provenance["figures"]["psnr_db_of_cases"]) == 2
    assert provenance["figures"]["auto_psnr_db"] <= provenance["promise"]["psnr_db"]
    assert provenance["device"] == "toy"
    assert datetime.strptime(provenance["date"], "%Y-%m-%d").replace(tzinfo=timezone.utc) <= datetime.now(timezone.utc)


def test_a_finished_search_does_not_say_it_was_interrupted():
    assert "interrupted" not in named().provenance["found"]


def test_an_interrupted_search_says_after_how_much():
    assert "interrupted after 3.2 dense-run equivalents" in named(finished=False, cost=3.21).provenance["found"]


def test_without_a_baseline_there_is_no_figure_of_one():
    assert "auto_psnr_db" not in named(baselines=()).provenance["figures"]


def test_a_name_that_cannot_be_one_is_refused():
    with pytest.raises(ScheduleError, match="not a usable schedule name"):
        named("../mine")
