"""Replay: schedules of whole steps come out of the dense runs as they come out of real ones; what is read off it."""

from __future__ import annotations

import random

import pytest
import torch
from toy_bench import ToyBench

from astraea.schedules import Forecast
from astraea.search.candidate import FORECASTS, Genome, mean_budget
from astraea.search.evaluation.evaluator import Evaluator, mean_psnr
from astraea.search.evaluation.replay import Replay
from astraea.search.evaluation.run_log import RunLog
from astraea.search.evaluation.step_cost import StepCost
from astraea.search.problem import Job, Outcome, Recording
from astraea.search.proposals.sensitivity import PROBED, Probe, allotted, probe

FORECAST = pytest.mark.parametrize(
    "forecast",
    FORECASTS,
    ids=[f"{f.prior_gain:g} {f.extrapolation_axis} {f.interpolation_axis} {f.curvature:g}" for f in FORECASTS],
)


def replay_of(bench: ToyBench) -> Replay:
    return Replay(bench.setting, [bench.dense(case) for case in range(bench.setting.cases)])


def real(bench: ToyBench, genome: Genome) -> list[Outcome]:
    schedule = genome.schedule(bench.setting.sigmas)
    return list(bench.measure([Job(case, schedule) for case in range(bench.setting.cases)]))


def random_whole(rng: random.Random, steps: int, share: float = 0.5) -> tuple[float, ...]:
    """The last step may be reused too."""
    return (1.0, *(float(rng.random() < share) for _ in range(steps - 1)))


@pytest.fixture(scope="module")
def unanswering() -> tuple[ToyBench, Replay]:
    """A model whose predictions do not depend on the latents: then nothing has to be guessed."""
    bench = ToyBench(steps=9, cases=2, answers=0.0, end=0.05)
    replay = replay_of(bench)
    replay.learn(real(bench, Genome((1.0, *[0.0, 1.0] * 4))))
    return bench, replay


def test_that_a_model_does_not_answer_is_learnt(unanswering):
    assert unanswering[1].responses == pytest.approx([0.0] * 9, abs=1e-6)


@FORECAST
@pytest.mark.parametrize("mode", ["default", "hold"])
def test_replayed_losses_are_the_real_ones_where_nothing_is_guessed(unanswering, forecast, mode):
    bench, replay = unanswering
    rng = random.Random(f"{forecast}")
    for share in (0.3, 0.5, 0.8):
        genome = Genome(random_whole(rng, 9, share), forecast, mode)
        losses = [outcome.loss for outcome in real(bench, genome)]
        assert replay.losses(genome) == pytest.approx(losses, rel=1e-4, abs=1e-12), genome.budgets


def test_a_dense_run_replays_without_loss(unanswering):
    assert unanswering[1].losses(Genome((1.0,) * 9)) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_replay_ranks_schedules_where_the_model_answers():
    bench = ToyBench(steps=9, cases=2, end=0.05)
    replay, rng = replay_of(bench), random.Random(1)
    genomes = list(dict.fromkeys(Genome(random_whole(rng, 9), rng.choice(FORECASTS)) for _ in range(40)))
    outcomes = [real(bench, genome) for genome in genomes]
    replay.learn([outcome for pair in outcomes for outcome in pair])
    told = torch.tensor([[mean_psnr([o.loss for o in pair]) for pair in outcomes]])
    replayed = torch.tensor([[mean_psnr(replay.losses(genome)) for genome in genomes]])
    assert float(torch.corrcoef(torch.cat([told, replayed]))[0, 1]) > 0.9


def test_each_case_is_replayed_as_if_it_were_alone():
    bench = ToyBench(steps=9, cases=2, end=0.05)
    alone = [Replay(bench.setting, [bench.dense(case)]) for case in (0, 1)]
    both, rng = replay_of(bench), random.Random(2)
    for _ in range(10):
        genome = Genome(random_whole(rng, 9), rng.choice(FORECASTS))
        expected = [replay.losses(genome)[0] for replay in alone]
        assert both.losses(genome) == pytest.approx(expected, rel=1e-3, abs=1e-12)


def outcome_with(responses: tuple[float | None, ...]) -> Outcome:
    return Outcome(0.1, len(responses), (), 1.0, (), (), responses)


def test_responses_are_medians_and_those_of_the_nearest_step_where_nothing_is_known(unanswering):
    replay = replay_of(unanswering[0])
    replay.learn([outcome_with((None, None, each, None, None, None, 5.0)) for each in (1.0, 2.0, 30.0)])
    assert replay.responses == [2.0, 2.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0]


def test_losses_follow_what_is_learnt():
    bench = ToyBench(steps=6, end=0.05)
    replay, genome = replay_of(bench), Genome((1.0, 1.0, 0.0, 1.0, 1.0, 1.0))
    before = replay.losses(genome)
    replay.learn([outcome_with((None, None, None, 0.1, 0.1, 0.1))])
    assert replay.losses(genome)[0] < before[0]


def test_sensitivity_is_the_loss_of_each_step_reused_alone(unanswering):
    bench, replay = unanswering
    alike = Genome((1.0,) * 9, Forecast(0.25, "root", "root"))
    found = replay.sensitivity(alike)
    assert found[0] == 0.0, "the first step always is computed"
    for step in (1, 4, 8):
        outcomes = real(bench, Genome(tuple(float(k != step) for k in range(9)), alike.forecast))
        assert found[step] == pytest.approx(sum(o.loss for o in outcomes) / 2, rel=1e-3)


def test_token_steps_cannot_be_replayed(unanswering):
    with pytest.raises(ValueError, match="token steps"):
        unanswering[1].losses(Genome((1.0, 0.5, *[1.0] * 7)))


def test_a_sampler_of_unknown_weights_cannot_be_replayed():
    with pytest.raises(ValueError, match="weights"):
        replay_of(ToyBench(steps=4, calls=2))


def test_predictions_that_are_all_alike_can_be_replayed():
    bench = ToyBench(steps=4, end=0.05)
    dense = bench.dense(0)
    still = dense.predictions[:1, :1].expand_as(dense.predictions)
    alike = Recording(dense.latents, still, still[:, 0], dense.final, dense.peak, dense.seconds)
    assert Replay(bench.setting, [alike]).losses(Genome((1.0, 0.0, 0.0, 1.0))) == pytest.approx([0.0], abs=1e-10)


# --- the sensitivity probe --------------------------------------------------------------------------------------


def probed(bench: ToyBench) -> tuple[Evaluator, Probe]:
    judge = Evaluator(bench, RunLog())
    found = probe(judge, 0, replay_of(bench))
    assert found is not None
    return judge, found


def test_the_probe_costs_what_it_says():
    judge, _ = probed(ToyBench(steps=20))
    assert judge.spent == pytest.approx(2.5, abs=0.1)


def test_the_probe_finds_a_step_in_part_better_than_a_reused_one():
    _, found = probed(ToyBench(steps=10))
    in_part, reused = found.losses[PROBED], found.losses[0.0]
    assert sum(in_part[1:-1]) < sum(reused[1:-1])
    assert in_part[0] == reused[0] == 0.0


def test_the_probe_prices_steps_by_what_they_take():
    _, found = probed(ToyBench(steps=10))
    assert found.prices == StepCost(0.05)  # as the toy's steps in part do


def test_without_replay_nothing_is_probed():
    bench = ToyBench(steps=6, calls=2)
    judge = Evaluator(bench, RunLog())
    assert probe(judge, 0, None) is None
    assert judge.spent == 0.0


@pytest.mark.parametrize("budget", [0.2, 0.35, 0.5, 0.65, 0.8, 1.0])
def test_what_is_allotted_keeps_the_budget(budget):
    bench = ToyBench(steps=10)
    genome = allotted(probed(bench)[1], bench.setting, budget)
    assert mean_budget(genome.budgets, bench.setting.evaluations) <= budget
    assert genome.budgets[0] == 1.0
    assert genome.budgets[-1] >= 0.5


def test_more_sensitive_steps_get_no_less():
    reused = tuple(0.001 * step**2 for step in range(10))
    found = Probe({0.0: reused, PROBED: tuple(0.3 * loss for loss in reused)}, StepCost(0.1))
    bench = ToyBench(steps=10)
    for budget in (0.3, 0.5, 0.7):
        budgets = allotted(found, bench.setting, budget).budgets[1:]
        assert list(budgets) == sorted(budgets)


def test_a_budget_that_pays_for_everything_buys_everything():
    bench = ToyBench(steps=10)
    assert allotted(probed(bench)[1], bench.setting, 1.0).budgets == (1.0,) * 10
