"""Estimates of predictions are the best linear ones for random curves of their covariance, and harmless elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astraea.engine.estimators import ComputedPrediction, SkippedStep, forecast_prediction, hold_prediction
from astraea.schedules import Forecast, PredictionPrior

OLDER, SKIPPED, LEVEL = (0.94, 0.98), (0.9, 0.85), 0.77
ENTERED = (0.06, 0.1)  # weights of the skipped predictions in the latents
PRIOR = PredictionPrior()
CURVES = 400_000


def draw_curves(levels, prior=PRIOR, mean=3.0):
    """Random curves at the levels, `[n, CURVES]`: each with a mean of its own."""
    random = np.random.default_rng(0)
    root = np.linalg.cholesky(prior.covariance(levels) + 1e-10 * np.eye(len(levels)))
    return root @ random.standard_normal((len(levels), CURVES)) + mean * random.standard_normal(CURVES)


def mean_square(values):
    return float(np.square(values).mean())


def loses_by_change(estimate, truth, known, by=0.03):
    """Whether moving weight from one known curve to another makes an estimate worse, either way, for each pair."""
    least = mean_square(estimate - truth)
    moved = [estimate + by * (a - b) for a in known for b in known if a is not b]
    return all(mean_square(other - truth) > least for other in moved)


def test_forecasts_are_the_best_sums_of_what_is_known():
    newest, older, truth = draw_curves((*OLDER, 0.9))
    weights = PRIOR.forecast_weights(0.9, OLDER)
    assert sum(weights) == pytest.approx(1.0)
    estimate = weights[0] * newest + weights[1] * older
    assert loses_by_change(estimate, truth, (newest, older))
    assert mean_square(estimate - truth) < mean_square(newest - truth)


@pytest.mark.parametrize("response", [0.0, 0.8, 1.1])
def test_a_computed_prediction_is_read_in_the_best_way(response):
    """It follows latents that hold the errors of the forecasts, not quite in their direction."""
    prior = PredictionPrior(Forecast(response=response))
    newest, older, first, second, truth = draw_curves((*OLDER, *SKIPPED, LEVEL), prior)
    skipped = (first, second)
    forecasts = [w[0] * newest + w[1] * older for w in (prior.forecast_weights(level, OLDER) for level in SKIPPED)]
    lacking = sum(w * (f - s) for w, f, s in zip(ENTERED, forecasts, skipped, strict=True))
    noise = PredictionPrior.misaligned * np.sqrt(mean_square(lacking)) * np.random.default_rng(1).normal(size=CURVES)
    computed = truth + prior.response(LEVEL) * (lacking + noise)
    known = (computed, newest, older)
    seen = prior.observe(LEVEL, OLDER, SKIPPED, ENTERED)
    for weights, target in zip((seen.own, *seen.skipped), (truth, *skipped), strict=True):
        assert sum(weights) == pytest.approx(1.0)
        estimate = sum(w * values for w, values in zip(weights, known, strict=True))
        assert loses_by_change(estimate, target, known)
    right = sum(w * values for w, values in zip(seen.own, known, strict=True))
    assert mean_square(right - truth) <= mean_square(computed - truth) + 1e-9
    between = [sum(w * values for w, values in zip(weights, known, strict=True)) for weights in seen.skipped]
    for estimate, forecast, target in zip(between, forecasts, skipped, strict=True):
        assert mean_square(estimate - target) < mean_square(forecast - target)


def test_without_response_a_computed_prediction_is_taken_as_it_is():
    seen = PredictionPrior(Forecast(response=0.0)).observe(LEVEL, OLDER, SKIPPED, ENTERED)
    assert seen.own == pytest.approx((1.0, 0.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("known", [(1.0, 1.0), (0.9, 0.9 + 1e-9), (0.5,)])
def test_levels_that_coincide_give_finite_weights(known):
    weights = PRIOR.forecast_weights(0.4, known)
    assert np.isfinite(weights).all()
    assert sum(weights) == pytest.approx(1.0)
    seen = PRIOR.observe(known[0], known, [known[-1]], [0.1])
    assert np.isfinite([seen.own, *seen.skipped]).all()


@pytest.mark.parametrize("levels", [(1.0, 0.99, 0.98), (0.5, 0.3, 0.1), (1e-3, 1e-4, 0.0), (14.6, 7.0, 3.0)])
def test_forecasts_stay_near_what_is_known_at_all_noise_levels(levels):
    """Also at the levels of models that are no flow, should they come unconverted."""
    newest, older = levels[1], levels[0]
    weights = PRIOR.forecast_weights(levels[2], (newest, older))
    assert abs(weights[1]) < 2.0
    assert 0.0 <= PRIOR.response(levels[2]) <= 50.0


def test_places_of_noise_levels_rise_as_noise_falls():
    levels = [1.2, 1.0, 0.9999, 0.9995, 0.999, *(step / 50 for step in range(49, -1, -1))]
    places = [PRIOR.position(level) for level in levels]
    assert places == sorted(places)
    assert len(set(places[1:])) == len(places) - 1


def history_of(count=2):
    return [(level, torch.randn(2, 5, generator=torch.Generator().manual_seed(n))) for n, level in enumerate(OLDER)][
        :count
    ]


def test_tensors_are_combined_as_the_weights_say():
    history, value = history_of(), torch.randn(2, 5, generator=torch.Generator().manual_seed(9))
    skipped = [SkippedStep(3, SKIPPED[0]), SkippedStep(4, SKIPPED[1])]
    computed = ComputedPrediction(PRIOR, history, LEVEL, value, skipped, ENTERED)
    seen = PRIOR.observe(LEVEL, OLDER, SKIPPED, ENTERED)

    def weighted(weights):
        return sum(weight * known for weight, known in zip(weights, (value, history[0][1], history[1][1]), strict=True))

    torch.testing.assert_close(computed.right, weighted(seen.own))
    errors = [
        weighted(weights) - forecast_prediction(PRIOR, history, level)
        for weights, level in zip(seen.skipped, SKIPPED, strict=True)
    ]
    found = computed.errors(skipped, (2.0, -0.5))
    torch.testing.assert_close(found, 2.0 * errors[0] - 0.5 * errors[1], atol=1e-5, rtol=1e-5)
    assert computed.errors(skipped, (0.0, 0.0)) is None


def test_with_one_prediction_known_forecasts_hold_it():
    (level, value), *_ = history = history_of(1)
    assert forecast_prediction(PRIOR, history, 0.7) is value
    assert hold_prediction(history_of()) is not None
    computed = ComputedPrediction(PRIOR, history, LEVEL, value + 1.0, [SkippedStep(1, 0.9)], [0.05])
    error = computed.errors([SkippedStep(1, 0.9)], [1.0])
    assert error is not None
    assert ((error > 0.0) & (error < 1.0)).all(), f"between {level} and {LEVEL}"


def test_estimates_keep_the_type_of_half_precision():
    history = [(level, value.half()) for level, value in history_of()]
    assert forecast_prediction(PRIOR, history, 0.7).dtype == torch.float16
    computed = ComputedPrediction(PRIOR, history, LEVEL, history[0][1], [SkippedStep(1, 0.9)], [0.05])
    assert computed.right.dtype == torch.float16
