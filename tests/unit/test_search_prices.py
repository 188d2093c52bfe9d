"""What steps in part cost beside whole ones, and that a search hands over nothing that takes longer than its budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_bench import SECONDS, ToyBench

from astraea.search.candidate import Genome
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.evaluation.step_cost import StepCost, measured
from astraea.search.problem import Outcome, SamplingConfig
from astraea.search.proposals.initial import step_skipping_candidates, token_candidate, uniform_candidate

FLOORS = pytest.mark.parametrize("floor", [0.05, 0.35, 0.6, 1.0])


def runs(bench: ToyBench, *genomes: Genome) -> list[tuple[Genome, Outcome]]:
    judge = Evaluator(bench, RunLog())
    judge.verdicts(genomes, [0])
    return [(genome, judge.outcomes[0, genome]) for genome in genomes]


def mixed(setting: SamplingConfig, budget: float) -> Genome:
    return token_candidate(setting, budget, (0.1, 0.3, 0.8))


@FLOORS
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("draw", [mixed, uniform_candidate])
def test_the_floor_is_read_off_what_runs_took(floor, calls, draw):
    bench = ToyBench(steps=12, floor=floor, calls=calls)
    whole = runs(bench, step_skipping_candidates(bench.setting, 0.5)[0])
    prices = measured(runs(bench, draw(bench.setting, 0.5)), whole, bench.setting.evaluations)
    assert prices.floor == pytest.approx(floor, abs=0.03)


def test_what_full_steps_take_longer_for_those_in_part_is_laid_on_these():
    bench = ToyBench(steps=12, floor=0.2)
    whole = runs(bench, step_skipping_candidates(bench.setting, 0.5)[0])
    in_part = Genome((*(1.0, 0.3) * 5, 1.0, 1.0))
    (_, outcome), *_ = runs(bench, in_part)
    slower = replace(outcome, seconds=tuple(s + 0.1 * (s == SECONDS["full"]) for s in outcome.seconds))
    evaluations = bench.setting.evaluations
    assert measured([(in_part, outcome)], whole, evaluations).floor == pytest.approx(0.2)
    assert measured([(in_part, slower)], whole, evaluations).floor > 0.25


def test_a_run_that_was_given_up_tells_what_its_steps_took():
    bench = ToyBench(steps=12, floor=0.4)
    whole = runs(bench, step_skipping_candidates(bench.setting, 0.5)[0])
    (genome, outcome), *_ = runs(bench, uniform_candidate(bench.setting, 0.5))
    cut = replace(outcome, steps=5, seconds=outcome.seconds[:5], kinds=outcome.kinds[:5], loss=float("inf"))
    assert measured([(genome, cut)], whole, bench.setting.evaluations).floor == pytest.approx(0.4, abs=0.03)


def test_without_runs_to_tell_steps_cost_their_tokens():
    bench = ToyBench(steps=8)
    whole = runs(bench, step_skipping_candidates(bench.setting, 0.5)[0])
    in_part = runs(bench, uniform_candidate(bench.setting, 0.5))
    assert measured([], whole, bench.setting.evaluations) == StepCost()
    assert measured(in_part, [], bench.setting.evaluations) == StepCost()


def test_whole_steps_cost_what_they_are_and_those_in_part_at_least_the_floor():
    prices = StepCost(0.4)
    assert [prices.of(budget) for budget in (0.0, 0.5, 1.0)] == [0.0, pytest.approx(0.7), 1.0]
    assert prices.of_run((1.0, 0.0, 0.5, 1.0), (2, 2, 2, 1)) == pytest.approx((2.0 + 1.4 + 1.0) / 7.0)


@FLOORS
def test_a_pattern_is_drawn_for_as_much_as_is_paid_for(floor):
    setting, prices = ToyBench(steps=20).setting, StepCost(floor)
    found = prices.largest_affordable(lambda mean: mixed(setting, mean), 0.5, setting.evaluations)
    if floor > 0.5:
        assert found is None, "hardly any tokens of each step are too dear"
        return
    assert found is not None
    assert not found.whole
    assert 0.45 < prices.of_run(found.budgets, setting.evaluations) <= 0.5


def seconds_paid_for(setting: SamplingConfig, budget: float) -> float:
    """Of a run of whole steps that spends the budget to the last, all other steps reused."""
    return sum(setting.evaluations) * (budget * SECONDS["full"] + (1.0 - budget) * SECONDS["reuse"])


@pytest.mark.parametrize("floor", [0.05, 1.0])
@pytest.mark.parametrize("toy", [{}, {"cases": 1}, {"calls": 2}], ids=["plain", "one case", "no replay"])
@pytest.mark.parametrize("effort", [16, 45])
@pytest.mark.usefixtures("small_populations")
def test_nothing_found_takes_longer_than_whole_steps_would(floor, toy, effort):
    bench = ToyBench(steps=8, floor=floor, **toy)
    result = Search(bench, RunLog(), budgets=(0.4, 0.6), effort=effort, seed=0).run()
    for found in (*result.best, *result.front):
        assert found.seconds <= seconds_paid_for(bench.setting, found.budget) * 1.02


def test_by_a_given_price_the_clock_has_no_say():
    found = []
    for floor in (0.05, 0.6):
        bench = ToyBench(steps=6, cases=3, answers=2.0, floor=floor)
        result = Search(bench, RunLog(), budgets=(0.6,), effort=60, seed=0, floor=0.3).run()
        found.append((result.best[0].schedule, result.spent, [schedule for _, schedule in bench.runs]))
        assert result.best[0].floor == 0.3
    assert found[0] == found[1]
    assert found[0][0].has_partial_steps


def test_steps_in_part_are_handed_over_where_they_are_worth_their_time():
    """This toy swings so much that whole steps far apart do badly, while its steps in part are nearly right."""
    best = {}
    for floor in (0.05, 0.35, 1.0):
        bench = ToyBench(steps=6, cases=3, answers=2.0, floor=floor)
        best[floor] = Search(bench, RunLog(), budgets=(0.6,), effort=24, seed=0).run().best[0].schedule
    assert best[0.05].has_partial_steps
    assert best[0.35].has_partial_steps, "computing less of each, they are worth it still"
    assert best[0.35].mean_budget < best[0.05].mean_budget
    assert not best[1.0].has_partial_steps
