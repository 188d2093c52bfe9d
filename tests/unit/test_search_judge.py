"""The judge: nothing is run twice, everything is counted, and a run that was given up says only what it may."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from toy_bench import ToyBench

from astraea.search.candidate import Genome
from astraea.search.evaluation.evaluator import Evaluation, Evaluator, mean_psnr
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem import Job, Outcome

GOOD = Genome((1.0, 1.0, 0.0, 1.0, 1.0, 1.0))
BAD = Genome((1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
PART = Genome((1.0, 0.3, 0.3, 0.3, 0.3, 1.0))
NEVER, ALWAYS = {0: (math.inf,) * 6}, {0: (1e-12,) * 6}


def judge_of(memo: RunLog | None = None, told=None) -> Evaluator:
    return Evaluator(ToyBench(steps=6), RunLog() if memo is None else memo, told)


def runs(judge: Evaluator) -> int:
    return len(judge.bench.runs)


def test_a_candidate_is_never_run_twice():
    judge = judge_of()
    first = judge.verdicts([GOOD, BAD, GOOD], [0, 1])
    assert runs(judge) == 4
    assert judge.verdicts([BAD, GOOD], [1, 0]) == [Evaluation(v.genome, v.losses[::-1]) for v in first[1::-1]]
    assert runs(judge) == 4


def test_verdicts_come_in_the_order_asked_for():
    verdicts = judge_of().verdicts([BAD, GOOD, BAD], [0, 1])
    assert [verdict.genome for verdict in verdicts] == [BAD, GOOD, BAD]
    assert verdicts[0] == verdicts[2]


def test_losses_are_those_of_the_bench():
    verdict = judge_of().verdicts([PART], [1])[0]
    outcome = next(iter(ToyBench(steps=6).measure([Job(1, PART.schedule(ToyBench(steps=6).setting.sigmas))])))
    assert verdict.losses == (outcome.loss,)


def test_spent_is_the_tokens_computed_in_dense_runs():
    judge = judge_of()
    judge.dense(0)
    judge.dense(0)
    assert judge.spent == 1.0
    judge.verdicts([GOOD, PART], [0])
    assert judge.spent == pytest.approx(1.0 + (5.0 + 3.2) / 6.0)


def test_what_is_remembered_counts_as_if_it_were_run():
    memo = RunLog()
    first, again = judge_of(memo), judge_of(memo)
    verdicts = first.verdicts([GOOD, BAD], [0, 1])
    assert again.verdicts([GOOD, BAD], [0, 1]) == verdicts
    assert again.spent == first.spent
    assert (runs(again), again.cache_hits, again.fresh_cost) == (0, 4, 0.0)
    assert (first.cache_hits, first.fresh_cost) == (0, first.spent)


def test_each_run_is_told_of_once_and_in_order():
    heard = []
    judge = judge_of(told=lambda genome, case, outcome: heard.append((genome, case)))
    judge.verdicts([GOOD, BAD], [0, 1])
    judge.verdicts([BAD], [0])
    assert heard == [(GOOD, 0), (GOOD, 1), (BAD, 0), (BAD, 1)]


def test_runs_made_before_an_interrupt_are_kept():
    memo = RunLog()

    def stop(genome: Genome, case: int, outcome: Outcome) -> None:
        if case == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_of(memo, stop).verdicts([GOOD, BAD], [0, 1])
    assert len(memo) == 2


def test_beyond_its_limits_a_run_is_given_up():
    judge = judge_of()
    verdict = judge.verdicts([BAD], [0], ALWAYS)[0]
    assert verdict.given_up
    assert judge.outcomes[0, BAD].steps < 6
    assert judge.spent < 2.0 / 6.0


def test_a_run_that_was_given_up_is_not_trusted_under_looser_limits():
    judge = judge_of()
    judge.verdicts([BAD], [0], ALWAYS)
    assert not judge.verdicts([BAD], [0], NEVER)[0].given_up
    assert runs(judge) == 2


@pytest.mark.parametrize("limits", [NEVER, None, {}], ids=["looser", "none", "none for this case"])
def test_a_remembered_run_that_was_given_up_is_not_trusted_under_other_limits(limits):
    memo = RunLog()
    judge_of(memo).verdicts([BAD], [0], ALWAYS)
    judge = judge_of(memo)
    assert not judge.verdicts([BAD], [0], limits)[0].given_up
    assert runs(judge) == 1


def test_a_run_that_was_given_up_stays_so_under_tighter_limits():
    judge = judge_of()
    judge.verdicts([BAD], [0], {0: (1e-9,) * 6})
    assert judge.verdicts([BAD], [0], ALWAYS)[0].given_up
    assert runs(judge) == 1


def test_a_run_that_was_given_up_at_its_last_step_is_not_trusted_under_looser_limits():
    judge = judge_of()
    judge.verdicts([BAD], [0], {0: (math.inf,) * 5 + (1e-12,)})
    assert not judge.verdicts([BAD], [0], NEVER)[0].given_up


def test_a_run_that_was_not_finite_is_not_run_again():
    memo, bench = RunLog(), ToyBench(steps=6)
    outcome = next(iter(bench.measure([Job(0, BAD.schedule(bench.setting.sigmas))])))
    broken = replace(outcome, loss=math.inf, losses=(*outcome.losses[:-1], math.inf))
    judge = judge_of(memo)
    memo.put(judge._key((0, BAD)), broken)
    assert judge.verdicts([BAD], [0])[0].losses == (math.inf,)
    assert runs(judge) == 0


def test_a_whole_run_in_the_memo_counts_under_limits_as_if_it_had_been_given_up():
    """Else a search that finds it there would go another way than one that runs it."""
    fresh, memo = judge_of(), RunLog()
    judge_of(memo).verdicts([BAD, PART], [0])
    cache_hits = judge_of(memo)
    assert cache_hits.verdicts([BAD, PART], [0], ALWAYS) == fresh.verdicts([BAD, PART], [0], ALWAYS)
    assert cache_hits.outcomes == fresh.outcomes
    assert cache_hits.spent == fresh.spent
    assert runs(cache_hits) == 0


def test_limits_leave_room_around_the_best():
    judge = judge_of()
    judge.verdicts([GOOD], [0])
    worst = max(judge.outcomes[0, GOOD].losses)
    limits = judge.limits(GOOD, [0, 1], 10.0)
    assert limits == {0: (pytest.approx(10.0 * worst),) * 6}, "case 1 has not been run"
    assert not judge.verdicts([GOOD], [0], limits)[0].given_up


def test_a_run_that_was_given_up_sets_no_limits():
    judge = judge_of()
    judge.verdicts([BAD], [0], ALWAYS)
    assert judge.limits(BAD, [0], 10.0) == {}


def test_scores_are_mean_decibels():
    assert mean_psnr([1e-2, 1e-4]) == pytest.approx(30.0)
    assert mean_psnr([0.0]) == pytest.approx(200.0)
    assert mean_psnr([math.inf]) == mean_psnr([1.0]) == mean_psnr([7.0]) == 0.0
