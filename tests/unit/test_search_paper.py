"""The paper's search, which this project's is measured against; and what a found schedule tells of itself."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from itertools import pairwise

import pytest
from toy_bench import ToyBench

from astraea.errors import ScheduleError
from astraea.schedules import expected_of, load, save
from astraea.search.candidate import FREE_SIZES, mean_budget
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluation, Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.paper_search import BAND, CHILDREN, POPULATION, PaperSearch
from astraea.search.problem import SamplingConfig
from astraea.search.provenance import as_schedule
from astraea.search.result import Result

BUDGET, LIMIT = 0.5, 130.0


class PaperRun:
    """The paper's search with what it told: the best after each candidate."""

    def __init__(
        self, seed: int = 0, limit: float = LIMIT, mode: str = "default", kind: type[PaperSearch] = PaperSearch
    ):
        self.bench = ToyBench(steps=8, cases=2)
        self.search = kind(Evaluator(self.bench, RunLog()), [0, 1], BUDGET, random.Random(seed), mode)
        self.told: list[Evaluation] = []
        self.sizes: list[int] = []
        self.search.run(limit, self._told)

    def _told(self, best: Evaluation) -> None:
        self.told.append(best)
        self.sizes.append(len(self.search.population))


@cache
def paper_run() -> PaperRun:
    return PaperRun()


def error(verdict: Evaluation) -> float:
    return sum(verdict.losses) / len(verdict.losses)


def test_a_population_is_filled_then_grows_by_children_and_the_best_survive():
    sizes = paper_run().sizes
    assert sizes[:POPULATION] == list(range(1, POPULATION + 1))
    assert max(sizes) <= POPULATION + CHILDREN
    after_generations = [after for before, after in pairwise(sizes) if after < before]
    assert set(after_generations) == {POPULATION + 1}, "the first child of the next one is told of"


def test_every_candidate_keeps_the_band_and_the_ends():
    bench = paper_run().bench
    for _, schedule in bench.runs:
        mean = mean_budget(schedule.budgets, bench.setting.evaluations)
        assert BAND[0] * BUDGET <= mean <= BAND[1] * BUDGET
        assert schedule.budgets[0] == 1.0
        assert schedule.budgets[-1] >= 0.5
        assert set(schedule.budgets) <= set(FREE_SIZES)


def test_the_mean_square_error_only_falls():
    errors = [error(best) for best in paper_run().told]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[POPULATION - 1], "generations find something better than chance did"


def test_the_best_is_told():
    run = paper_run()
    assert run.told[-1] == run.search.best == min(run.search.population, key=error)


def test_it_ends_when_its_limit_is_reached():
    spent = paper_run().search.judge.spent
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


def test_candidates_have_the_mode_asked_for():
    assert {schedule.mode for _, schedule in PaperRun(limit=3.0, mode="hold").bench.runs} == {"hold"}


class MakesAllRuns(PaperSearch):
    """Runs every candidate on every case, in one go."""

    def _verdict(self, genome):
        return self.judge.verdicts([genome], self.cases)[0]


@pytest.mark.parametrize("seed", [1])
def test_leaving_out_what_cannot_survive_changes_nothing_but_the_runs(seed):
    few, every = PaperRun(seed, 300.0), PaperRun(seed, 300.0, kind=MakesAllRuns)
    assert few.told == every.told
    assert few.sizes == every.sizes
    assert few.search.judge.spent == pytest.approx(every.search.judge.spent)
    survivors = [sorted(run.search.population, key=error)[:POPULATION] for run in (few, every)]
    assert survivors[0] == survivors[1]
    assert len(few.bench.runs) < len(every.bench.runs) - 20


# --- provenance -------------------------------------------------------------------------------------------------


@cache
def searched() -> tuple[Result, SamplingConfig]:
    bench = ToyBench(steps=6, cases=2)
    return Search(bench, RunLog(), budgets=(0.5, 0.7), effort=8, seed=4).run(), bench.setting


def named(name: str = "mine-0.50", **changes):
    result, setting = searched()
    return as_schedule(result.best[0], replace(result, **changes), setting, name, effort=8, seed=4)


def test_a_found_schedule_comes_back_from_its_file(tmp_path):
    schedule = named()
    assert load(save(schedule, tmp_path)) == schedule


def test_it_is_the_one_that_was_found_under_its_new_name():
    found, schedule = searched()[0].best[0].schedule, named()
    assert (schedule.points, schedule.mode, schedule.forecast) == (found.points, found.mode, found.forecast)
    assert (schedule.name, schedule.family) == ("mine-0.50", "wan")


def test_it_promises_what_was_measured():
    best, promise = searched()[0].best[0], expected_of(named())
    assert promise is not None
    assert promise.psnr_db == pytest.approx(best.psnr, abs=0.01)
    assert promise.speedup == pytest.approx(best.speedup, abs=0.001)
    assert (promise.steps, promise.sampler, promise.cfg, promise.latent) == (6, "euler", 3.0, (1, 1, 64))
    assert promise.dense_seconds == pytest.approx(6.0)


def test_it_tells_how_it_was_found():
    result, setting = searched()
    told = named().provenance
    assert told["search"] == {
        "effort": 8,
        "seed": 4,
        "floor": result.best[0].floor,
        "dense_run_equivalents": round(result.spent, 2),
        "identity": setting.identity,
    }
    assert len(told["figures"]["psnr_db_of_cases"]) == 2
    assert told["figures"]["bundled_psnr_db"] <= told["promise"]["psnr_db"]
    assert told["device"] == "toy"
    assert datetime.strptime(told["date"], "%Y-%m-%d").replace(tzinfo=timezone.utc) <= datetime.now(timezone.utc)


def test_a_finished_search_does_not_say_it_was_interrupted():
    assert "interrupted" not in named().provenance["found"]


def test_an_interrupted_search_says_after_how_much():
    assert "interrupted after 3.2 dense-run equivalents" in named(finished=False, spent=3.21).provenance["found"]


def test_without_a_hand_made_rival_there_is_no_figure_of_one():
    assert "bundled_psnr_db" not in named(baselines=()).provenance["figures"]


def test_a_name_that_cannot_be_one_is_refused():
    with pytest.raises(ScheduleError, match="not a usable schedule name"):
        named("../mine")
