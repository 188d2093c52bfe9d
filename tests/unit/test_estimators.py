"""Estimators recover what they claim to, and stay finite where little is known."""

from __future__ import annotations

import pytest
import torch

from astraea.engine.blocks.selection import Selection
from astraea.engine.estimators import (
    ESTIMATORS,
    ExtrapolationGain,
    SkippedStep,
    TimeAxes,
    extrapolate_prediction,
    hold_prediction,
    prediction_error,
)
from astraea.engine.estimators.prediction import MAX_STEP_RATIO, step_ratio
from astraea.engine.estimators.tokens.forecast import token_step_ratios
from astraea.engine.estimators.tokens.refit import fit_drift
from astraea.engine.estimators.tokens.scaled_refit import change_weights
from astraea.schedules import DEFAULT_FORECAST, TIME_AXES, sigma_axis
from astraea.schedules.forecast import MAX_PRIOR_GAIN, MIN_PRIOR_GAIN

DAMPED = 0.4
PRIOR_GAIN = DEFAULT_FORECAST.prior_gain


def residuals(rows=2, tokens=400, dim=16, seed=0):
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def first_tokens(count, rows=2, tokens=400):
    return Selection(torch.arange(count).expand(rows, -1), tokens)


def estimate(name, kept, selection, fresh, weights=None):
    return ESTIMATORS[name].estimate([each.clone() for each in kept], selection, fresh, weights)


def test_refit_finds_an_affine_drift_per_channel():
    kept = residuals()
    slope, offset = torch.linspace(0.7, 1.3, 16), torch.linspace(-1, 1, 16)
    drifted = kept * slope + offset
    selection = Selection(torch.arange(0, 400, 2).expand(2, -1), 400)
    result = estimate("refit", [kept], selection, selection.gather(drifted))
    assert (result - drifted).square().mean() < 0.002 * (kept - drifted).square().mean()


def test_refit_of_unchanged_residuals_changes_nothing():
    kept = residuals()
    assert torch.allclose(estimate("refit", [kept], first_tokens(50), kept[:, :50]), kept, atol=1e-5)


def test_refit_trusts_few_tokens_less_than_many():
    kept = residuals()
    drifted = kept + 1.0
    _, few = fit_drift(kept[:, :2], drifted[:, :2])
    _, many = fit_drift(kept, drifted)
    assert few.abs().mean() < 0.5
    assert many.abs().mean() > 0.95


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e4])
def test_refit_of_constant_channels_is_finite(value):
    kept = torch.full((1, 10, 4), value)
    slope, offset = fit_drift(kept[:, :3], kept[:, :3] * 2)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(offset).all()
    assert ((slope >= 0.5) & (slope <= 1.5)).all()


def test_scaled_refit_moves_a_token_as_far_as_its_input_moved():
    kept = residuals()
    fresh = kept[:, :100] + 1.0
    weights = torch.cat([torch.ones(2, 100, 1), torch.zeros(2, 150, 1), torch.full((2, 150, 1), 0.5)], dim=1)
    result = estimate("scaled_refit", [kept], first_tokens(100), fresh, weights)
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
    assert torch.allclose(extrapolate_prediction(history, 0.7, damping), expected, atol=1e-5)


def test_forecasts_of_a_bending_line_miss_less_the_nearer_they_are():
    """On a parabola, what comes true of a forecast falls with the distance: seen at the end of a gap, known within."""
    base, direction = residuals().double(), residuals(seed=1).double()

    def at(place):
        return base + (place - 0.125 * place**2) * direction

    history = [(-place, at(place)) for place in (1.0, 0.0)]
    gain = ExtrapolationGain(PRIOR_GAIN, sigma_axis)
    gain.measure(history, -2.0, at(2.0))
    whole = gain.gain(base)
    assert whole == pytest.approx((PRIOR_GAIN + 5 / 7) / 2)
    for ahead in (0.25, 0.5, 1.0):
        assert gain.gain(base, ahead) == pytest.approx(1 - (1 - whole) * ahead)
    assert gain.gain(base, 3.0) == pytest.approx(whole)


def test_forecast_holds_with_one_value_or_one_noise_level():
    total = residuals()
    assert extrapolate_prediction([(0.8, total)], 0.7) is total
    assert torch.equal(extrapolate_prediction([(0.8, total), (0.8, total * 3)], 0.7), total)
    assert hold_prediction([(0.8, total), (0.9, total * 3)]) is total


def test_gain_lets_forecasts_go_as_far_as_the_newest_one_came_true():
    """Half of what is known beforehand, half of what was seen; never beyond the line nor far behind."""
    history = [(0.8, residuals() + residuals(seed=1)), (0.9, residuals())]
    assert ExtrapolationGain(PRIOR_GAIN, sigma_axis).gain(residuals()) == PRIOR_GAIN
    for came_true, expected in (
        (1.0, 0.5),
        (0.25, 0.125),
        (-0.5, -0.25),
        (9.0, MAX_PRIOR_GAIN),
        (-9.0, MIN_PRIOR_GAIN),
    ):
        gain = ExtrapolationGain(PRIOR_GAIN, sigma_axis)
        gain.measure(history, 0.7, history[0][1] + came_true * residuals(seed=1))
        assert gain.gain(residuals()) == pytest.approx(expected, abs=1e-4)
    stopped = torch.zeros(())
    assert torch.allclose(extrapolate_prediction(history, 0.7, stopped), history[0][1])


def test_gain_judges_a_step_by_all_its_conditionings_and_only_by_the_newest_step():
    base, direction = residuals(), residuals(seed=1)
    history = [(0.8, base + direction), (0.9, base)]
    gain = ExtrapolationGain(PRIOR_GAIN, sigma_axis)
    gain.measure(history, 0.7, base + 2 * direction)
    gain.measure([(0.8, base + 3 * direction), (0.9, base)], 0.7, base + 3 * direction)
    assert gain.gain(base) == pytest.approx((PRIOR_GAIN + 1.0 / 10.0) / 2, abs=1e-4)
    gain.measure(history, 0.6, base + 3 * direction)
    assert gain.gain(base) == pytest.approx((PRIOR_GAIN + 1.0) / 2, abs=1e-4)


def test_gain_says_nothing_about_a_value_computed_twice():
    gain = ExtrapolationGain(PRIOR_GAIN, sigma_axis)
    gain.measure([(0.8, residuals()), (0.9, residuals(seed=1))], 0.8, residuals(seed=2))
    gain.measure([(0.8, residuals())], 0.7, residuals(seed=2))
    assert gain.gain(residuals()) == PRIOR_GAIN


def test_gain_sums_in_single_precision_what_half_precision_cannot_hold():
    base, direction = residuals().half(), (1e3 * residuals(seed=1)).half()
    gain = ExtrapolationGain(PRIOR_GAIN, sigma_axis)
    gain.measure([(0.8, base + direction), (0.9, base)], 0.7, base + 2 * direction)
    assert gain.gain(base).dtype == torch.float16
    assert gain.gain(base).item() == pytest.approx(0.5, abs=1e-2)


def test_step_ratio_is_bounded():
    assert step_ratio(0.0, 0.8, 0.81) == MAX_STEP_RATIO
    assert step_ratio(0.9, 0.8, 0.9) == 0.0
    assert step_ratio(0.7, 0.8, 0.9) == pytest.approx(1.0)


def test_step_ratios_of_tokens_agree_with_the_step_ratio():
    newest, older = torch.tensor([[0.8, 0.8, 0.9]]), torch.tensor([[0.9, 0.8, 0.95]])
    expected = [[step_ratio(0.7, a, b) for a, b in zip(newest[0].tolist(), older[0].tolist(), strict=True)]]
    assert torch.allclose(token_step_ratios(0.7, newest, older).squeeze(-1), torch.tensor(expected), atol=1e-4)


def test_forecast_tokens_extrapolates_each_token_by_its_own_ratio():
    kept, older = residuals(), residuals(seed=1)
    weights = torch.zeros(2, 400, 1)
    weights[:, 200:] = 2.0
    result = estimate("forecast", [kept, older], first_tokens(1), kept[:, :1], weights)
    assert torch.allclose(result[:, :200], kept[:, :200], atol=1e-6)
    assert torch.allclose(result[:, 200:], (kept + 2 * (kept - older))[:, 200:], atol=1e-5)


def test_what_a_gap_missed_is_interpolated():
    base, slope, curvature = (residuals(seed=n).double() for n in range(3))

    def denoised_at(sigma):
        return base + sigma * slope + sigma**2 * curvature

    history = [(0.8, denoised_at(0.8)), (0.9, denoised_at(0.9))]
    gap = [SkippedStep(3, 0.7, DAMPED), SkippedStep(4, 0.6, torch.tensor(DAMPED, dtype=torch.float64))]
    lacking = [denoised_at(entry.sigma) - extrapolate_prediction(history, entry.sigma, DAMPED) for entry in gap]
    found = prediction_error(gap, [0.5, 2.0], history, 0.4, denoised_at(0.4))
    assert torch.allclose(found, 0.5 * lacking[0] + 2.0 * lacking[1], atol=1e-9)
    held = prediction_error(gap[:1], [1.0], history[:1], 0.4, denoised_at(0.4))
    assert torch.allclose(held, (denoised_at(0.4) - history[0][1]) * 0.25, atol=1e-9), "one point known: along a line"


@pytest.mark.parametrize("curvature", [0.0, 0.25, 1.0])
def test_interpolation_follows_the_bend_as_far_as_told(curvature):
    base, slope, curve = (residuals(seed=n).double() for n in range(3))

    def denoised_at(sigma):
        return base + sigma * slope + sigma**2 * curve

    history = [(0.8, denoised_at(0.8)), (0.9, denoised_at(0.9))]
    found = prediction_error(
        [SkippedStep(3, 0.6, 0.0)], [1.0], history, 0.4, denoised_at(0.4), TimeAxes(curvature=curvature)
    )
    on_line = (denoised_at(0.4) + denoised_at(0.8)) / 2
    expected = curvature * denoised_at(0.6) + (1 - curvature) * on_line - history[0][1]
    assert torch.allclose(found, expected, atol=1e-9)


def test_nothing_is_missed_without_a_gap_a_weight_a_history_or_another_noise_level():
    history, now = [(0.8, residuals()), (0.9, residuals(seed=1))], residuals(seed=2)
    gap = [SkippedStep(1, 0.7, DAMPED)]
    assert prediction_error(gap, [1.0], history, 0.6, now) is not None
    assert prediction_error([], [], history, 0.6, now) is None
    assert prediction_error(gap, [0.0], history, 0.6, now) is None
    assert prediction_error(gap, [1.0], [], 0.6, now) is None
    assert prediction_error(gap, [1.0], history, 0.8, now) is None


@pytest.mark.parametrize("time", TIME_AXES.values(), ids=TIME_AXES)
def test_times_go_one_way_over_all_noise_levels(time):
    levels = [1.2, 1.0, 0.9999, 0.9995, 0.999, *(step / 50 for step in range(49, -1, -1))]
    told = [time(level) for level in levels]
    assert told == sorted(told, reverse=told[0] > told[-1])
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(("name", "power"), [("root", 0.5), ("power-0.75", 0.75)])
@pytest.mark.parametrize("sigma", [0.0, 0.19, 0.75, 0.99, 1.0])
def test_powers_of_what_is_not_noise(name, power, sigma):
    assert TIME_AXES[name](sigma) == pytest.approx((1.0 - sigma) ** power)
