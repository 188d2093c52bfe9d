"""The evaluator: nothing is run twice, all costs are counted, and aborted runs are used under their limits only."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from toy_runner import ToyRunner

from astraea.search.evaluation.evaluator import Evaluation, Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.candidate import Genome
from astraea.search.problem.losses import mean_psnr
from astraea.search.problem.runner import Job, Outcome

GOOD = Genome((1.0, 1.0, 0.0, 1.0, 1.0, 1.0))
BAD = Genome((1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
PART = Genome((1.0, 0.3, 0.3, 0.3, 0.3, 1.0))
NEVER, ALWAYS = {0: (math.inf,) * 6}, {0: (1e-12,) * 6}


def evaluator_of(run_log: RunLog | None = None, on_outcome=None) -> Evaluator:
    return Evaluator(ToyRunner(steps=6), RunLog() if run_log is None else run_log, on_outcome)


def runs(evaluator: Evaluator) -> int:
    return len(evaluator.runner.runs)


def test_a_candidate_is_never_run_twice():
    evaluator = evaluator_of()
    first = evaluator.evaluate([GOOD, BAD, GOOD], [0, 1])
    assert runs(evaluator) == 4
    assert evaluator.evaluate([BAD, GOOD], [1, 0]) == [
        Evaluation(each.genome, each.losses[::-1]) for each in first[1::-1]
    ]
    assert runs(evaluator) == 4


def test_evaluations_come_in_the_order_asked_for():
    evaluated = evaluator_of().evaluate([BAD, GOOD, BAD], [0, 1])
    assert [evaluation.genome for evaluation in evaluated] == [BAD, GOOD, BAD]
    assert evaluated[0] == evaluated[2]


def test_losses_are_those_of_the_runner():
    evaluation = evaluator_of().evaluate([PART], [1])[0]
    outcome = next(iter(ToyRunner(steps=6).measure([Job(1, PART.schedule(ToyRunner(steps=6).setting.sigmas))])))
    assert evaluation.losses == (outcome.loss,)


def test_the_cost_is_the_tokens_computed_in_dense_runs():
    evaluator = evaluator_of()
    evaluator.dense(0)
    evaluator.dense(0)
    assert evaluator.cost == 1.0
    evaluator.evaluate([GOOD, PART], [0])
    assert evaluator.cost == pytest.approx(1.0 + (5.0 + 3.2) / 6.0)


def test_a_cached_run_counts_as_if_it_were_made():
    run_log = RunLog()
    first, again = evaluator_of(run_log), evaluator_of(run_log)
    evaluated = first.evaluate([GOOD, BAD], [0, 1])
    assert again.evaluate([GOOD, BAD], [0, 1]) == evaluated
    assert again.cost == first.cost
    assert (runs(again), again.cache_hits, again.fresh_cost) == (0, 4, 0.0)
    assert (first.cache_hits, first.fresh_cost) == (0, first.cost)


def test_each_outcome_is_reported_once_and_in_order():
    seen = []
    evaluator = evaluator_of(on_outcome=lambda genome, case, *_: seen.append((genome, case)))
    evaluator.evaluate([GOOD, BAD], [0, 1])
    evaluator.evaluate([BAD], [0])
    assert seen == [(GOOD, 0), (GOOD, 1), (BAD, 0), (BAD, 1)]


def test_runs_made_before_an_interrupt_are_kept():
    run_log = RunLog()

    def stop(genome: Genome, case: int, outcome: Outcome, is_cached: bool) -> None:
        if case == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator_of(run_log, stop).evaluate([GOOD, BAD], [0, 1])
    assert len(run_log) == 2


def test_beyond_its_limits_a_run_is_aborted():
    evaluator = evaluator_of()
    evaluation = evaluator.evaluate([BAD], [0], ALWAYS)[0]
    assert evaluation.aborted
    assert evaluator.outcomes[0, BAD].steps < 6
    assert evaluator.cost < 2.0 / 6.0


def test_a_run_that_was_aborted_is_not_used_under_looser_limits():
    evaluator = evaluator_of()
    evaluator.evaluate([BAD], [0], ALWAYS)
    assert not evaluator.evaluate([BAD], [0], NEVER)[0].aborted
    assert runs(evaluator) == 2


@pytest.mark.parametrize("limits", [NEVER, None, {}], ids=["looser", "none", "none for this case"])
def test_a_cached_run_that_was_aborted_is_not_used_under_other_limits(limits):
    run_log = RunLog()
    evaluator_of(run_log).evaluate([BAD], [0], ALWAYS)
    evaluator = evaluator_of(run_log)
    assert not evaluator.evaluate([BAD], [0], limits)[0].aborted
    assert runs(evaluator) == 1


def test_a_run_that_was_aborted_stays_so_under_tighter_limits():
    evaluator = evaluator_of()
    evaluator.evaluate([BAD], [0], {0: (1e-9,) * 6})
    assert evaluator.evaluate([BAD], [0], ALWAYS)[0].aborted
    assert runs(evaluator) == 1


def test_a_run_that_was_aborted_at_its_last_step_is_not_used_under_looser_limits():
    evaluator = evaluator_of()
    evaluator.evaluate([BAD], [0], {0: (math.inf,) * 5 + (1e-12,)})
    assert not evaluator.evaluate([BAD], [0], NEVER)[0].aborted


def test_a_run_that_was_not_finite_is_not_run_again():
    run_log, runner = RunLog(), ToyRunner(steps=6)
    outcome = next(iter(runner.measure([Job(0, BAD.schedule(runner.setting.sigmas))])))
    broken = replace(outcome, loss=math.inf, losses=(*outcome.losses[:-1], math.inf))
    evaluator = evaluator_of(run_log)
    run_log.put(evaluator._key((0, BAD)), broken)
    assert evaluator.evaluate([BAD], [0])[0].losses == (math.inf,)
    assert runs(evaluator) == 0


def test_a_complete_run_in_the_log_counts_as_aborted_under_limits():
    """Otherwise a cached run would change the search."""
    fresh, run_log = evaluator_of(), RunLog()
    evaluator_of(run_log).evaluate([BAD, PART], [0])
    again = evaluator_of(run_log)
    assert again.evaluate([BAD, PART], [0], ALWAYS) == fresh.evaluate([BAD, PART], [0], ALWAYS)
    assert again.outcomes == fresh.outcomes
    assert again.cost == fresh.cost
    assert runs(again) == 0


def test_limits_leave_room_around_the_best():
    evaluator = evaluator_of()
    evaluator.evaluate([GOOD], [0])
    worst = max(evaluator.outcomes[0, GOOD].losses)
    limits = evaluator.limits(GOOD, [0, 1], 10.0)
    assert limits == {0: (pytest.approx(10.0 * worst),) * 6}, "case 1 has not been run"
    assert not evaluator.evaluate([GOOD], [0], limits)[0].aborted


def test_a_run_that_was_aborted_sets_no_limits():
    evaluator = evaluator_of()
    evaluator.evaluate([BAD], [0], ALWAYS)
    assert evaluator.limits(BAD, [0], 10.0) == {}


def test_scores_are_mean_decibels():
    assert mean_psnr([1e-2, 1e-4]) == pytest.approx(30.0)
    assert mean_psnr([0.0]) == pytest.approx(200.0)
    assert mean_psnr([math.inf]) == mean_psnr([1.0]) == mean_psnr([7.0]) == 0.0
