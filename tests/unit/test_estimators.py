"""Estimators recover what they claim to, and stay finite where little is known."""

from __future__ import annotations

import pytest
import torch

from astraea.engine.estimators import (
    Curves,
    Estimated,
    forecast_denoised,
    forecast_tokens,
    hold_denoised,
    missed,
    refit_tokens,
    scaled_refit_tokens,
)
from astraea.engine.estimators.forecast import (
    DAMPING,
    LEAST_DAMPING,
    MOST_DAMPING,
    MOST_REACH,
    Trial,
    reach,
    token_reach,
)
from astraea.engine.estimators.refit import change_weights, drift_of
from astraea.engine.estimators.time_axes import TIMES
from astraea.schedules import TIME_NAMES

DAMPED = 0.4


def residuals(rows=2, tokens=400, dim=16, seed=0):
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def test_refit_finds_an_affine_drift_per_channel():
    kept = residuals()
    slope, offset = torch.linspace(0.7, 1.3, 16), torch.linspace(-1, 1, 16)
    drifted = kept * slope + offset
    chosen = torch.arange(0, 400, 2)
    result = refit_tokens(kept.clone(), kept[:, chosen], drifted[:, chosen])
    assert (result - drifted).square().mean() < 0.002 * (kept - drifted).square().mean()


def test_refit_of_unchanged_residuals_changes_nothing():
    kept = residuals()
    assert torch.allclose(refit_tokens(kept.clone(), kept[:, :50], kept[:, :50]), kept, atol=1e-5)


def test_refit_trusts_few_tokens_less_than_many():
    kept = residuals()
    drifted = kept + 1.0
    _, few = drift_of(kept[:, :2], drifted[:, :2])
    _, many = drift_of(kept, drifted)
    assert few.abs().mean() < 0.5
    assert many.abs().mean() > 0.95


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e4])
def test_refit_of_constant_channels_is_finite(value):
    kept = torch.full((1, 10, 4), value)
    slope, offset = drift_of(kept[:, :3], kept[:, :3] * 2)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(offset).all()
    assert ((slope >= 0.5) & (slope <= 1.5)).all()


def test_scaled_refit_moves_a_token_as_far_as_its_input_moved():
    kept = residuals()
    fresh = kept[:, :100] + 1.0
    weights = torch.cat([torch.ones(2, 100, 1), torch.zeros(2, 150, 1), torch.full((2, 150, 1), 0.5)], dim=1)
    result = scaled_refit_tokens(kept.clone(), kept[:, :100], fresh, weights)
    moved = (result - kept).mean(-1)
    assert torch.allclose(moved[:, 100:250], torch.zeros(1), atol=1e-6)
    assert torch.allclose(moved[:, 250:].mean(), moved[:, :100].mean() / 2, rtol=0.1)


def test_change_weights_are_relative_to_the_selected_tokens():
    change = torch.tensor([[4.0, 2.0, 1.0, 100.0]])
    weights = change_weights(change, torch.tensor([[0]])).squeeze(-1)
    assert torch.allclose(weights, torch.tensor([[1.0, 0.5, 0.25, 1.5]]))
    still = change_weights(torch.zeros(1, 4), torch.tensor([[0, 1]]))
    assert torch.isfinite(still).all()


@pytest.mark.parametrize("damping", [0.0, 0.4, 1.0])
def test_forecast_goes_along_the_line_as_far_as_it_is_let(damping):
    base, direction = residuals(), residuals(seed=1)
    history = [(0.8, base + 0.8 * direction), (0.9, base + 0.9 * direction)]
    expected = base + (0.8 - 0.1 * damping) * direction
    assert torch.allclose(forecast_denoised(history, 0.7, damping), expected, atol=1e-5)


def test_forecasts_of_a_bending_line_miss_less_the_nearer_they_are():
    """On a parabola, what comes true of a forecast falls with the distance: seen at the end of a gap, known within."""
    base, direction = residuals().double(), residuals(seed=1).double()

    def at(place):
        return base + (place - 0.125 * place**2) * direction

    history = [(-place, at(place)) for place in (1.0, 0.0)]
    trial = Trial()
    trial.add(history, -2.0, at(2.0))
    whole = trial.damping(base)
    assert whole == pytest.approx((DAMPING + 5 / 7) / 2)
    for ahead in (0.25, 0.5, 1.0):
        assert trial.damping(base, ahead) == pytest.approx(1 - (1 - whole) * ahead)
    assert trial.damping(base, 3.0) == pytest.approx(whole)


def test_forecast_holds_with_one_value_or_one_noise_level():
    total = residuals()
    assert forecast_denoised([(0.8, total)], 0.7) is total
    assert torch.equal(forecast_denoised([(0.8, total), (0.8, total * 3)], 0.7), total)
    assert hold_denoised([(0.8, total), (0.9, total * 3)], 0.7) is total


def test_trial_lets_forecasts_go_as_far_as_the_newest_one_came_true():
    """Half of what is known beforehand, half of what was seen; never beyond the line nor far behind."""
    history = [(0.8, residuals() + residuals(seed=1)), (0.9, residuals())]
    assert Trial().damping(residuals()) == DAMPING
    for came_true, expected in ((1.0, 0.5), (0.25, 0.125), (-0.5, -0.25), (9.0, MOST_DAMPING), (-9.0, LEAST_DAMPING)):
        trial = Trial()
        trial.add(history, 0.7, history[0][1] + came_true * residuals(seed=1))
        assert trial.damping(residuals()) == pytest.approx(expected, abs=1e-4)
    stopped = torch.zeros(())
    assert torch.allclose(forecast_denoised(history, 0.7, stopped), history[0][1])


def test_trial_judges_a_step_by_all_its_conditionings_and_only_by_the_newest_step():
    base, direction = residuals(), residuals(seed=1)
    history = [(0.8, base + direction), (0.9, base)]
    trial = Trial()
    trial.add(history, 0.7, base + 2 * direction)
    trial.add([(0.8, base + 3 * direction), (0.9, base)], 0.7, base + 3 * direction)
    assert trial.damping(base) == pytest.approx((DAMPING + 1.0 / 10.0) / 2, abs=1e-4)
    trial.add(history, 0.6, base + 3 * direction)
    assert trial.damping(base) == pytest.approx((DAMPING + 1.0) / 2, abs=1e-4)


def test_trial_says_nothing_about_a_value_computed_twice():
    trial = Trial()
    trial.add([(0.8, residuals()), (0.9, residuals(seed=1))], 0.8, residuals(seed=2))
    trial.add([(0.8, residuals())], 0.7, residuals(seed=2))
    assert trial.damping(residuals()) == DAMPING


def test_trial_sums_in_single_precision_what_half_precision_cannot_hold():
    base, direction = residuals().half(), (1e3 * residuals(seed=1)).half()
    trial = Trial()
    trial.add([(0.8, base + direction), (0.9, base)], 0.7, base + 2 * direction)
    assert trial.damping(base).dtype == torch.float16
    assert trial.damping(base).item() == pytest.approx(0.5, abs=1e-2)


def test_reach_is_bounded():
    assert reach(0.0, 0.8, 0.81) == MOST_REACH
    assert reach(0.9, 0.8, 0.9) == 0.0
    assert reach(0.7, 0.8, 0.9) == pytest.approx(1.0)


def test_token_reach_agrees_with_reach_per_token():
    newest, older = torch.tensor([[0.8, 0.8, 0.9]]), torch.tensor([[0.9, 0.8, 0.95]])
    expected = [[reach(0.7, a, b) for a, b in zip(newest[0].tolist(), older[0].tolist(), strict=True)]]
    assert torch.allclose(token_reach(0.7, newest, older).squeeze(-1), torch.tensor(expected), atol=1e-4)


def test_forecast_tokens_extrapolates_each_token_by_its_own_reach():
    kept, older = residuals(), residuals(seed=1)
    weights = torch.zeros(2, 400, 1)
    weights[:, 200:] = 2.0
    result = forecast_tokens(kept, older, weights)
    assert torch.allclose(result[:, :200], kept[:, :200], atol=1e-6)
    assert torch.allclose(result[:, 200:], (kept + 2 * (kept - older))[:, 200:], atol=1e-5)


def test_what_a_gap_missed_is_interpolated():
    base, slope, bend = (residuals(seed=n).double() for n in range(3))

    def denoised_at(sigma):
        return base + sigma * slope + sigma**2 * bend

    history = [(0.8, denoised_at(0.8)), (0.9, denoised_at(0.9))]
    gap = [Estimated(3, 0.7, DAMPED), Estimated(4, 0.6, torch.tensor(DAMPED, dtype=torch.float64))]
    lacking = [denoised_at(entry.sigma) - forecast_denoised(history, entry.sigma, DAMPED) for entry in gap]
    found = missed(gap, [0.5, 2.0], history, 0.4, denoised_at(0.4))
    assert torch.allclose(found, 0.5 * lacking[0] + 2.0 * lacking[1], atol=1e-9)
    held = missed(gap[:1], [1.0], history[:1], 0.4, denoised_at(0.4))
    assert torch.allclose(held, (denoised_at(0.4) - history[0][1]) * 0.25, atol=1e-9), "one point known: along a line"


@pytest.mark.parametrize("bend", [0.0, 0.25, 1.0])
def test_interpolation_follows_the_bend_as_far_as_told(bend):
    base, slope, curve = (residuals(seed=n).double() for n in range(3))

    def denoised_at(sigma):
        return base + sigma * slope + sigma**2 * curve

    history = [(0.8, denoised_at(0.8)), (0.9, denoised_at(0.9))]
    found = missed([Estimated(3, 0.6, 0.0)], [1.0], history, 0.4, denoised_at(0.4), Curves(bend=bend))
    on_line = (denoised_at(0.4) + denoised_at(0.8)) / 2
    expected = bend * denoised_at(0.6) + (1 - bend) * on_line - history[0][1]
    assert torch.allclose(found, expected, atol=1e-9)


def test_nothing_is_missed_without_a_gap_a_weight_a_history_or_another_noise_level():
    history, now = [(0.8, residuals()), (0.9, residuals(seed=1))], residuals(seed=2)
    gap = [Estimated(1, 0.7, DAMPED)]
    assert missed(gap, [1.0], history, 0.6, now) is not None
    assert missed([], [], history, 0.6, now) is None
    assert missed(gap, [0.0], history, 0.6, now) is None
    assert missed(gap, [1.0], [], 0.6, now) is None
    assert missed(gap, [1.0], history, 0.8, now) is None


def test_what_a_schedule_may_name_as_a_time_there_is():
    assert tuple(TIMES) == TIME_NAMES


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
def test_times_go_one_way_over_all_noise_levels(time):
    levels = [1.2, 1.0, 0.9999, 0.9995, 0.999, *(step / 50 for step in range(49, -1, -1))]
    told = [time(level) for level in levels]
    assert told == sorted(told, reverse=told[0] > told[-1])
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(("name", "power"), [("root", 0.5), ("power-0.75", 0.75)])
@pytest.mark.parametrize("sigma", [0.0, 0.19, 0.75, 0.99, 1.0])
def test_powers_of_what_is_not_noise(name, power, sigma):
    assert TIMES[name](sigma) == pytest.approx((1.0 - sigma) ** power)
