"""Estimates of skipped predictions: the last two computed ones, extrapolated along a time axis.

Predictions are denoised latents, which move more steadily than noise or flow (DPM-Solver++, arXiv 2211.01095); noise
that a sampler adds does not disturb them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...schedules import TimeAxis, sigma_axis
from ...schedules.forecast import MAX_PRIOR_GAIN, MIN_PRIOR_GAIN

History = Sequence[tuple[float, Tensor]]
"""Computed predictions `(sigma, prediction [rows, …])`, newest first, at most two."""

MAX_STEP_RATIO = 4.0  # of an extrapolated distance over the last interval
SAME_LEVEL = 1e-6  # levels closer than this give no slope


def step_ratio(level: float, newest: float, older: float) -> float:
    """Return r = (t − t₁) / (t₁ − t₂), as in DPM-Solver++, clamped to 0…4; 0 where the two levels coincide."""
    interval = newest - older
    if abs(interval) < SAME_LEVEL:
        return 0.0
    return min(MAX_STEP_RATIO, max(0.0, (level - newest) / interval))


def step_ratio_from(history: History, sigma: float, axis: TimeAxis = sigma_axis) -> float:
    """Return the `step_ratio` at `sigma` along an axis; 0 where the history has one entry only."""
    return step_ratio(axis(sigma), axis(history[0][0]), axis(history[1][0])) if len(history) > 1 else 0.0


def hold_prediction(history: History) -> Tensor:
    """Return the newest prediction itself."""
    return history[0][1]


def extrapolate_prediction(
    history: History, sigma: float, gain: float | Tensor = 1.0, axis: TimeAxis = sigma_axis
) -> Tensor:
    """Return x₁ + gain · r · (x₁ − x₂); with one entry only, x₁ itself."""
    ratio, newest = step_ratio_from(history, sigma, axis), history[0][1]
    return newest if ratio == 0.0 else torch.lerp(history[1][1].to(newest), newest, 1.0 + gain * ratio)


class ExtrapolationGain:
    """The share of an extrapolation that proved right, measured at each computed step over all conditionings.

    Where steps are large or guidance is strong, predictions swing and extrapolation does harm; the measurement costs
    two sums a step. The order of the conditionings does not change a bit of it.

    prior: gain before a run has measured one; axis: the time axis of the extrapolation.
    """

    def __init__(self, prior: float, axis: TimeAxis) -> None:
        self._prior, self._axis = prior, axis
        # At the newest noise level and the one before, per conditioning `[2]`: ⟨extrapolated change, change⟩ and
        # |extrapolated change|².
        self._levels: list[tuple[float, list[Tensor]]] = []

    def reset(self) -> None:
        """Forget what was measured."""
        self._levels = []

    def measure(self, history: History, sigma: float, prediction: Tensor) -> None:
        """Compare the extrapolation from `history` to `sigma` with the prediction computed there."""
        if len(history) < 2 or abs(history[0][0] - sigma) < SAME_LEVEL:
            return
        change = (history[0][1] - history[1][1]).float() * step_ratio_from(history, sigma, self._axis)
        sums = torch.stack([self._sum(change * (prediction - history[0][1])), self._sum(change.square())])
        if self._levels and self._levels[0][0] == sigma:
            self._levels[0][1].append(sums)
        else:
            self._levels = [(sigma, [sums]), *self._levels[:1]]

    def _sum(self, products: Tensor) -> Tensor:
        """Return the sum over all values that share one gain; a subclass may divide them."""
        return products.sum()

    def gain(self, like: Tensor, ratio: float = 1.0, sigma: float | None = None) -> float | Tensor:
        """Return the gain for an extrapolation to noise level `sigma` by `ratio` intervals, without synchronisation.

        From ratio 1 on: the mean of the prior and the gain measured last, as one step alone says too little. Below:
        1 − ratio · (1 − that gain), as the error of an extrapolation grows with the square of its distance. All
        conditionings get the same gain: guidance would amplify a difference.
        """
        gain: float | Tensor = self._prior
        # Not the sums of this very level: some of its conditionings may not have been computed yet.
        sums = next((sums for level, sums in self._levels if level != sigma), None)
        if sums is not None:
            total = _total(sums)
            measured = total[0] / total[1].clamp_min(1e-12)
            gain = ((self._prior + measured) / 2).clamp(MIN_PRIOR_GAIN, MAX_PRIOR_GAIN).to(like.device, like.dtype)
        return 1.0 - (1.0 - gain) * min(1.0, ratio)


def _total(sums: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors. Three or more are sorted first: rounding would depend on their order."""
    if len(sums) < 3:
        return sums[0] if len(sums) == 1 else sums[0] + sums[1].to(sums[0].device)
    return torch.stack([each.to(sums[0].device) for each in sums]).sort(0).values.sum(0)
