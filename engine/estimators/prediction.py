"""Estimates of skipped predictions from the last two computed ones, and what the next computed one tells of them.

Predictions are denoised latents, which move more steadily than noise or flow (DPM-Solver++, arXiv 2211.01095); noise
that a sampler adds does not disturb them. All estimates are weighted sums; `schedules.PredictionPrior` has the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...schedules import PredictionPrior

History = Sequence[tuple[float, Tensor]]
"""Computed predictions `(sigma, prediction [rows, …])`, newest first, at most two."""


@dataclass(frozen=True)
class SkippedStep:
    """A prediction that was forecast. call: index among the sampler's calls."""

    call: int
    sigma: float


def hold_prediction(history: History) -> Tensor:
    """Return the newest prediction itself."""
    return history[0][1]


def forecast_prediction(prior: PredictionPrior, history: History, sigma: float) -> Tensor:
    """Return the forecast of a prediction; with one entry only, that entry itself."""
    newest = history[0][1]
    if len(history) < 2:
        return newest
    return torch.lerp(history[1][1].to(newest), newest, prior.forecast_weights(sigma, _levels(history))[0])


class ComputedPrediction:
    """A prediction that was computed after skipped ones, and the estimates that it and the ones before it allow.

    The latents that it was computed from hold the errors of the forecasts, and it follows its latents. `right` is what
    right latents would have led to; `errors` what the forecasts missed.
    """

    def __init__(
        self,
        prior: PredictionPrior,
        history: History,
        sigma: float,
        prediction: Tensor,
        skipped: Sequence[SkippedStep],
        weights: Sequence[float],
    ):
        """history: the predictions that the skipped ones were forecast from; weights: of these in the latents here."""
        self._values = [prediction, *(value for _, value in history)]
        self._forecasts = {step.call: (0.0, *prior.forecast_weights(step.sigma, _levels(history))) for step in skipped}
        seen = prior.observe(sigma, _levels(history), [step.sigma for step in skipped], weights)
        self._estimates = {step.call: found for step, found in zip(skipped, seen.skipped, strict=True)}
        self.right = self._sum(seen.own)

    def errors(self, skipped: Sequence[SkippedStep], weights: Sequence[float]) -> Tensor | None:
        """Return the weighted sum of estimated minus forecast predictions; None where every weight is 0."""
        if not any(weights):
            return None
        totals = [0.0] * len(self._values)
        for step, weight in zip(skipped, weights, strict=True):
            estimate, forecast = self._estimates[step.call], self._forecasts[step.call]
            totals = [t + weight * (e - f) for t, e, f in zip(totals, estimate, forecast, strict=True)]
        return self._sum(totals)

    def _sum(self, weights: Sequence[float]) -> Tensor:
        """Return a weighted sum, as the newest prediction plus differences to it: exact where all are alike."""
        newest, *older = self._values
        total = newest * float(round(sum(weights)))  # 1 for an estimate, 0 for an error
        for weight, value in zip(weights[1:], older, strict=True):
            total.add_(value.to(newest) - newest, alpha=weight)
        return total


def _levels(history: History) -> list[float]:
    return [level for level, _ in history]
