"""Replay: step-skipping schedules have the losses of real runs; the sensitivity of steps."""

from __future__ import annotations

import random

import pytest
import torch
from toy_runner import ToyRunner

from astraea.schedules import Forecast
from astraea.search.evaluation.replay import Replay
from astraea.search.problem.candidate import Genome, forecasts_like
from astraea.search.problem.losses import mean_psnr
from astraea.search.problem.runner import Job, Outcome, Recording

FORECASTS = forecasts_like(Forecast())
FORECAST = pytest.mark.parametrize(
    "forecast",
    FORECASTS,
    ids=[f"{f.onset:g} {f.reach:g} {f.response:g}" for f in FORECASTS],
)


def replay_of(runner: ToyRunner) -> Replay:
    return Replay(runner.setting, [runner.dense(case) for case in range(runner.setting.cases)])


def real(runner: ToyRunner, genome: Genome) -> list[Outcome]:
    schedule = genome.schedule(runner.setting.sigmas)
    return list(runner.measure([Job(case, schedule) for case in range(runner.setting.cases)]))


def random_step_skipping(rng: random.Random, steps: int, share: float = 0.5) -> tuple[float, ...]:
    """The last step may be reused too."""
    return (1.0, *(float(rng.random() < share) for _ in range(steps - 1)))


@pytest.fixture(scope="module")
def insensitive() -> tuple[ToyRunner, Replay]:
    """A model whose predictions do not depend on the latents: its replay is exact."""
    runner = ToyRunner(steps=9, cases=2, response=0.0, end=0.05)
    replay = replay_of(runner)
    replay.fit_responses(real(runner, Genome((1.0, *[0.0, 1.0] * 4))))
    return runner, replay


def test_that_a_model_does_not_respond_is_fitted(insensitive):
    assert insensitive[1].responses == pytest.approx([0.0] * 9, abs=1e-6)


@FORECAST
@pytest.mark.parametrize("mode", ["default", "hold"])
def test_replayed_losses_are_exact_if_the_model_does_not_respond(insensitive, forecast, mode):
    runner, replay = insensitive
    rng = random.Random(f"{forecast}")
    for share in (0.3, 0.5, 0.8):
        genome = Genome(random_step_skipping(rng, 9, share), forecast, mode)
        losses = [outcome.loss for outcome in real(runner, genome)]
        assert replay.losses(genome) == pytest.approx(losses, rel=1e-4, abs=1e-12), genome.budgets


def test_a_dense_run_replays_without_loss(insensitive):
    assert insensitive[1].losses(Genome((1.0,) * 9)) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_replay_ranks_schedules_if_the_model_responds():
    runner = ToyRunner(steps=9, cases=2, end=0.05)
    replay, rng = replay_of(runner), random.Random(1)
    genomes = list(dict.fromkeys(Genome(random_step_skipping(rng, 9), rng.choice(FORECASTS)) for _ in range(40)))
    outcomes = [real(runner, genome) for genome in genomes]
    replay.fit_responses([outcome for pair in outcomes for outcome in pair])
    real_psnr = torch.tensor([[mean_psnr([o.loss for o in pair]) for pair in outcomes]])
    replayed = torch.tensor([[mean_psnr(replay.losses(genome)) for genome in genomes]])
    assert float(torch.corrcoef(torch.cat([real_psnr, replayed]))[0, 1]) > 0.9


def test_each_case_is_replayed_as_if_it_were_alone():
    runner = ToyRunner(steps=9, cases=2, end=0.05)
    alone = [Replay(runner.setting, [runner.dense(case)]) for case in (0, 1)]
    both, rng = replay_of(runner), random.Random(2)
    for _ in range(10):
        genome = Genome(random_step_skipping(rng, 9), rng.choice(FORECASTS))
        expected = [replay.losses(genome)[0] for replay in alone]
        assert both.losses(genome) == pytest.approx(expected, rel=1e-3, abs=1e-12)


def outcome_with(responses: tuple[float | None, ...]) -> Outcome:
    return Outcome(0.1, len(responses), (), 1.0, (), (), responses)


def test_responses_are_medians_or_those_of_the_nearest_step(insensitive):
    replay = replay_of(insensitive[0])
    replay.fit_responses([outcome_with((None, None, each, None, None, None, 5.0)) for each in (1.0, 2.0, 30.0)])
    assert replay.responses == [2.0, 2.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0]


def test_losses_follow_fitted_responses():
    runner = ToyRunner(steps=6, end=0.05)
    replay, genome = replay_of(runner), Genome((1.0, 1.0, 0.0, 1.0, 1.0, 1.0))
    before = replay.losses(genome)
    replay.fit_responses([outcome_with((None, None, None, 0.1, 0.1, 0.1))])
    assert replay.losses(genome)[0] < before[0]


def test_sensitivity_is_the_loss_of_each_step_reused_alone(insensitive):
    runner, replay = insensitive
    alike = Genome((1.0,) * 9, Forecast(0.05, 1.0))
    found = replay.sensitivity(alike)
    assert found[0] == 0.0, "the first step always is computed"
    for step in (1, 4, 8):
        outcomes = real(runner, Genome(tuple(float(k != step) for k in range(9)), alike.forecast))
        assert found[step] == pytest.approx(sum(o.loss for o in outcomes) / 2, rel=1e-3)


def test_partial_steps_cannot_be_replayed(insensitive):
    with pytest.raises(ValueError, match="partial steps"):
        insensitive[1].losses(Genome((1.0, 0.5, *[1.0] * 7)))


def test_a_sampler_of_unknown_weights_cannot_be_replayed():
    with pytest.raises(ValueError, match="weights"):
        replay_of(ToyRunner(steps=4, calls=2))


def test_predictions_that_are_all_alike_can_be_replayed():
    runner = ToyRunner(steps=4, end=0.05)
    dense = runner.dense(0)
    still = dense.predictions[:1, :1].expand_as(dense.predictions)
    alike = Recording(dense.latents, still, still[:, 0], dense.final, dense.peak, dense.seconds)
    assert Replay(runner.setting, [alike]).losses(Genome((1.0, 0.0, 0.0, 1.0))) == pytest.approx([0.0], abs=1e-10)
