"""Prior of a run's predictions: how alike they are at two noise levels, before any was computed.

Predictions (denoised latents) change along a run as a random curve: the more alike, the nearer the levels are on an
axis of ln(1 − σ), on which content appears. From that follow the best linear estimates of what was not computed, and
how wrong they will be (Gaussian process regression, Rasmussen and Williams 2006, chapter 2; with an unknown mean:
ordinary kriging). Weights of estimates sum to 1; only ratios of covariances count, so no scale is needed.

A prediction follows its latents: where these are wrong by L, it is wrong by about `response(σ)` · L. The constants were
fitted to runs of the test models (`benchmarks/fit_prior.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .forecast import DEFAULT_FORECAST, Forecast

CLEAN_END = 1.27  # of the axis: the larger, the less predictions change where little noise is left
SWING_REACH = 0.4  # of the reach: what guidance adds changes faster than the rest
MAX_RESPONSE = 50.0
SAME_LEVEL = 1e-9  # share of a variance by which predictions at one level may differ


@dataclass(frozen=True)
class Observation:
    """Estimates that a computed prediction allows, of itself and of the skipped ones before it.

    Weights of (the computed prediction, the older ones, newest first): own: of the prediction that right latents would
    have led to; skipped: of each skipped one, in order.
    """

    own: tuple[float, ...]
    skipped: tuple[tuple[float, ...], ...]


class PredictionPrior:
    """Covariances of predictions by noise level, and the estimates that follow from them. Levels are a flow's σ.

    decided: middle and slope of the logistic curve of log-SNR that the response follows, over 1 / (1 − σ): content that
    is not decided yet does not follow; steady: of that along which the swing of guidance fades; misaligned: standard
    deviation of a prediction's error around the response, as a share of it.
    """

    decided, steady, misaligned = (-2.5, 1.5), (-2.0, 2.0), 0.8

    def __init__(self, forecast: Forecast = DEFAULT_FORECAST):
        self.forecast = forecast

    def position(self, sigma: float) -> float:
        """Return the place of a noise level on the axis, in units of the distance over which predictions stay alike."""
        signal = max(0.0, 1.0 - sigma) + self.forecast.onset
        return math.log(signal / (max(0.0, sigma) + CLEAN_END)) / self.forecast.reach

    def covariance(self, levels: Sequence[float]) -> np.ndarray:
        """Return the covariances `[n, n]` of predictions: Matérn's with smoothness 3/2, once differentiable."""
        places = np.array([self.position(level) for level in levels])
        distance = np.abs(places[:, None] - places[None])
        found = _matern(distance) + SAME_LEVEL * np.eye(len(places))
        if self.forecast.swing:
            swings = np.array([1.0 - _logistic(level, *self.steady) for level in levels])
            found += self.forecast.swing * swings[:, None] * swings * _matern(distance / SWING_REACH)
        return found

    def response(self, sigma: float) -> float:
        """Return the change of a prediction per change of its latents, in the same direction."""
        if sigma >= 1.0:
            return 0.0
        decided = _logistic(sigma, *self.decided)
        return min(MAX_RESPONSE, self.forecast.response * decided / (1.0 - max(0.0, sigma)))

    def forecast_weights(self, level: float, known: Sequence[float]) -> tuple[float, ...]:
        """Return the weights of predictions known at distinct levels in the estimate at another one."""
        return _forecast_weights(self.forecast, level, tuple(known))

    def observe(
        self, level: float, older: Sequence[float], skipped: Sequence[float], weights: Sequence[float]
    ) -> Observation:
        """Return what the prediction computed at `level` tells of the skipped ones before it, and of itself.

        older: levels of the computed ones before them, from which they were forecast, newest first; weights: of the
        skipped predictions in the latents at `level`, whose error follows from those of the forecasts.
        """
        return _observe(self.forecast, level, tuple(older), tuple(skipped), tuple(weights))


def _matern(distance: np.ndarray) -> np.ndarray:
    scaled = math.sqrt(3.0) * distance
    return (1.0 + scaled) * np.exp(-scaled)


def _logistic(sigma: float, middle: float, slope: float) -> float:
    """Return a curve of log-SNR that rises from 0 to 1 around `middle`."""
    level = min(max(sigma, 1e-9), 1.0 - 1e-9)
    return 1.0 / (1.0 + math.exp(-slope * (math.log((1.0 - level) / level) - middle)))


@lru_cache(maxsize=4096)
def _forecast_weights(forecast: Forecast, level: float, known: tuple[float, ...]) -> tuple[float, ...]:
    covariance = PredictionPrior(forecast).covariance((*known, level))
    ones = np.ones(len(known))
    return tuple(kriging_weights(covariance[:-1, :-1], ones, covariance[:-1, -1]).tolist())


@lru_cache(maxsize=4096)
def _observe(
    forecast: Forecast,
    level: float,
    older: tuple[float, ...],
    skipped: tuple[float, ...],
    weights: tuple[float, ...],
) -> Observation:
    prior = PredictionPrior(forecast)
    forecasts = [prior.forecast_weights(each, older) for each in skipped]
    covariance = prior.covariance((level, *skipped, *older))
    seen = ObservedLatents(covariance, np.array(forecasts), np.array(weights), prior.response(level))
    own, *others = (tuple(seen.weights_of(target)) for target in range(1 + len(skipped)))
    return Observation(own, tuple(others))


class ObservedLatents:
    """A computed prediction as an observation of all predictions that its latents hold.

    Its value, less the response to what the forecasts put into the latents, is P − response · Σ weight · skipped, with
    a noise as large as the response is uncertain. covariance: of (computed, skipped…, older…).
    """

    def __init__(self, covariance: np.ndarray, forecasts: np.ndarray, weights: np.ndarray, response: float):
        """forecasts `[skipped, older]`, weights `[skipped]`."""
        new, first_older = 1 + len(weights), len(covariance)
        self._response = response
        self._known = range(new, first_older)
        self._entered = weights @ forecasts  # weight of the older predictions in the latents, by the forecasts
        self._functional = np.concatenate([[1.0], -response * weights])
        self._new, older = slice(0, new), slice(new, first_older)
        lacking = np.concatenate([[0.0], -weights, self._entered])
        noise = (PredictionPrior.misaligned * response) ** 2 * (lacking @ covariance @ lacking)
        seen = covariance[:, self._new] @ self._functional
        self._covariance = covariance
        self._seen = seen
        self._system = np.block(
            [[np.array([[self._functional @ seen[self._new] + noise]]), seen[older][None]],
             [seen[older][:, None], covariance[older, older]]]
        )  # fmt: skip
        self._means = np.concatenate([[self._functional.sum()], np.ones(len(self._known))])

    def weights_of(self, target: int) -> np.ndarray:
        """Return the weights of (computed, older…) in the estimate of one of the new predictions."""
        to_target = np.concatenate([[self._seen[target]], self._covariance[list(self._known), target]])
        weights = kriging_weights(self._system, self._means, to_target)
        weights[1:] -= weights[0] * self._response * self._entered
        return weights


def kriging_weights(covariance: np.ndarray, means: np.ndarray, to_target: np.ndarray) -> np.ndarray:
    """Return the weights of observations in the best estimate of a target, whatever the curve's mean is.

    covariance: of the observations `[n, n]`; means: share of the mean in each `[n]`; to_target: covariances `[n]`.
    """
    count = len(means)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = covariance
    system[count, :count] = system[:count, count] = means
    return np.linalg.solve(system, np.concatenate([to_target, [1.0]]))[:count]
