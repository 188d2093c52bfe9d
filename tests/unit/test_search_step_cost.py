"""Cost of partial steps, and that no schedule found takes longer than its budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_runner import SECONDS, ToyRunner

from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.evaluation.step_cost import StepCost, measure_step_cost
from astraea.search.problem.candidate import Genome
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.runner import Outcome, SamplingConfig
from astraea.search.proposals.initial import periodic_candidate, step_skipping_candidates, uniform_candidate

OVERHEADS = pytest.mark.parametrize("overhead", [0.05, 0.35, 0.6, 1.0])


def runs(runner: ToyRunner, *genomes: Genome) -> list[tuple[Genome, Outcome]]:
    evaluator = Evaluator(runner, RunLog())
    evaluator.evaluate(genomes, [0])
    return [(genome, evaluator.outcomes[0, genome]) for genome in genomes]


def mixed(setting: SamplingConfig, budget: float) -> Genome:
    return periodic_candidate(setting, budget, (0.1, 0.3, 0.8))


@OVERHEADS
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("pattern", [mixed, uniform_candidate])
def test_the_overhead_is_measured_by_step_times(overhead, calls, pattern):
    runner = ToyRunner(steps=12, overhead=overhead, calls=calls)
    full_runs = runs(runner, step_skipping_candidates(runner.setting, 0.5)[0])
    cost = measure_step_cost(runs(runner, pattern(runner.setting, 0.5)), full_runs, runner.setting.calls_per_step)
    assert cost.partial_step_overhead == pytest.approx(overhead, abs=0.03)


def test_what_partial_steps_add_to_full_ones_is_attributed_to_them():
    runner = ToyRunner(steps=12, overhead=0.2)
    full_runs = runs(runner, step_skipping_candidates(runner.setting, 0.5)[0])
    partial = Genome((*(1.0, 0.3) * 5, 1.0, 1.0))
    (_, outcome), *_ = runs(runner, partial)
    slower = replace(outcome, seconds=tuple(s + 0.1 * (s == SECONDS["full"]) for s in outcome.seconds))
    calls_per_step = runner.setting.calls_per_step
    assert measure_step_cost([(partial, outcome)], full_runs, calls_per_step).partial_step_overhead == pytest.approx(
        0.2
    )
    assert measure_step_cost([(partial, slower)], full_runs, calls_per_step).partial_step_overhead > 0.25


def test_an_aborted_run_shows_the_times_of_its_steps():
    runner = ToyRunner(steps=12, overhead=0.4)
    full_runs = runs(runner, step_skipping_candidates(runner.setting, 0.5)[0])
    (genome, outcome), *_ = runs(runner, uniform_candidate(runner.setting, 0.5))
    cut = replace(outcome, steps=5, seconds=outcome.seconds[:5], kinds=outcome.kinds[:5], loss=float("inf"))
    assert measure_step_cost(
        [(genome, cut)], full_runs, runner.setting.calls_per_step
    ).partial_step_overhead == pytest.approx(0.4, abs=0.03)


def test_without_runs_partial_steps_cost_their_tokens():
    runner = ToyRunner(steps=8)
    full_runs = runs(runner, step_skipping_candidates(runner.setting, 0.5)[0])
    partial = runs(runner, uniform_candidate(runner.setting, 0.5))
    assert measure_step_cost([], full_runs, runner.setting.calls_per_step) == StepCost()
    assert measure_step_cost(partial, [], runner.setting.calls_per_step) == StepCost()


def test_full_steps_cost_one_and_partial_steps_at_least_the_overhead():
    cost = StepCost(0.4)
    assert [cost.of(budget) for budget in (0.0, 0.5, 1.0)] == [0.0, pytest.approx(0.7), 1.0]
    assert cost.of_run((1.0, 0.0, 0.5, 1.0), (2, 2, 2, 1)) == pytest.approx((2.0 + 1.4 + 1.0) / 7.0)


@OVERHEADS
def test_a_pattern_is_made_for_the_largest_budget_that_fits(overhead):
    setting, cost = ToyRunner(steps=20).setting, StepCost(overhead)
    found = cost.largest_affordable(lambda mean: mixed(setting, mean), 0.5, setting.calls_per_step)
    if overhead > 0.5:
        assert found is None, "hardly any tokens per step fit"
        return
    assert found is not None
    assert found.has_partial_steps
    assert 0.45 < cost.of_run(found.budgets, setting.calls_per_step) <= 0.5


def affordable_seconds(setting: SamplingConfig, budget: float) -> float:
    """Seconds of a run that spends the whole budget on full steps."""
    return sum(setting.calls_per_step) * (budget * SECONDS["full"] + (1.0 - budget) * SECONDS["reuse"])


@pytest.mark.parametrize("overhead", [0.05, 1.0])
@pytest.mark.parametrize("toy", [{}, {"cases": 1}, {"calls": 2}], ids=["plain", "one case", "no replay"])
@pytest.mark.parametrize("effort", [16, 45])
@pytest.mark.usefixtures("small_populations")
def test_nothing_found_takes_longer_than_the_full_steps_of_its_budget(overhead, toy, effort):
    runner = ToyRunner(steps=8, overhead=overhead, **toy)
    result = Search(runner, RunLog(), SearchConfig(budgets=(0.4, 0.6), effort=effort, seed=0)).run()
    for found in (*result.best, *result.front):
        assert found.seconds <= affordable_seconds(runner.setting, found.budget) * 1.02


def test_with_a_given_overhead_the_clock_has_no_effect():
    found = []
    for overhead in (0.05, 0.6):
        runner = ToyRunner(steps=6, cases=3, response=4.0, overhead=overhead)
        result = Search(
            runner, RunLog(), SearchConfig(budgets=(0.6,), effort=24, seed=0, partial_step_overhead=0.3)
        ).run()
        found.append((result.best[0].schedule, result.cost, [schedule for _, schedule in runner.runs]))
        assert result.best[0].partial_step_overhead == 0.3
    assert found[0] == found[1]
    assert found[0][0].has_partial_steps


def test_a_given_overhead_finds_what_the_same_one_finds_if_measured():
    found = []
    for given in (None, 0.35):
        config = SearchConfig(budgets=(0.6,), effort=24, seed=0, partial_step_overhead=given)
        runner = ToyRunner(steps=6, cases=3, response=4.0, overhead=0.35)
        found.append(Search(runner, RunLog(), config).run().best[0].schedule)
    assert found[0] == found[1]
    assert found[0].has_partial_steps


def test_partial_steps_are_found_if_they_are_worth_their_time():
    """The predictions of this toy swing: widely spaced full steps do badly, and partial steps are nearly right."""
    best = {}
    for overhead in (0.05, 0.35, 1.0):
        runner = ToyRunner(steps=6, cases=3, response=4.0, overhead=overhead)
        best[overhead] = (
            Search(runner, RunLog(), SearchConfig(budgets=(0.6,), effort=24, seed=0)).run().best[0].schedule
        )
    assert best[0.05].has_partial_steps
    assert best[0.35].has_partial_steps, "still worth it, with fewer tokens each"
    assert best[0.35].mean_budget < best[0.05].mean_budget
    assert not best[1.0].has_partial_steps
