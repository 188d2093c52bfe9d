"""Forecast: what the model computes moves almost linearly in sigma, so the last two computed values give the next.

On reuse steps for its prediction, the denoised latents; on token steps for each token's residuals (two values kept per
block). That denoised latents are steadier than noise or flow to build on is known from guided samplers
(DPM-Solver++, arXiv 2211.01095); noise that a sampler adds does not disturb them either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .time_axes import Time, by_sigma

MOST_REACH = 4.0  # how many of the last interval a forecast may reach ahead
# How much of a forecast one interval ahead comes true, before a run has shown it: nothing, as predictions bend back
# where reuse gaps are wide. What that leaves is made good by the correction.
DAMPING = 0.0
LEAST_DAMPING, MOST_DAMPING = -0.5, 1.0


def reach(sigma: float, newest: float, older: float) -> float:
    """(σ − σ₁) / (σ₁ − σ₂), the weight of the last difference; 0 where the two levels coincide."""
    gap = newest - older
    if abs(gap) < 1e-6:
        return 0.0
    return min(MOST_REACH, max(0.0, (sigma - newest) / gap))


def reach_from(history: Sequence[tuple[float, Tensor]], sigma: float, time: Time = by_sigma) -> float:
    """`reach` from `(sigma, denoised)`, newest first, in that variable; 0 from one entry alone."""
    return reach(time(sigma), time(history[0][0]), time(history[1][0])) if len(history) > 1 else 0.0


def forecast_denoised(
    history: Sequence[tuple[float, Tensor]], sigma: float, damping: float | Tensor = 1.0, time: Time = by_sigma
) -> Tensor:
    """x₁ + damping · reach · (x₁ − x₂) from `history`, `(sigma, denoised)` newest first; one entry alone is held."""
    ahead, denoised = reach_from(history, sigma, time), history[0][1]
    return denoised if ahead == 0.0 else torch.lerp(history[1][1].to(denoised), denoised, 1.0 + damping * ahead)


class Trial:
    """How much of the forecast of the newest computed step came true, over all its conditionings.

    Where large steps or strong guidance make the predictions swing, forecasts do harm. Each computed step shows it, at
    the price of two sums. The order in which conditionings come makes no difference to a bit.

    expected: what is taken to come true before a run has shown it; time: the variable that forecasts are linear in.
    """

    def __init__(self, expected: float | None = None, time: Time = by_sigma) -> None:
        self._expected, self._time = DAMPING if expected is None else expected, time
        # At the newest noise level and the one before: ⟨forecast change, change⟩ and |forecast change|², [2], each.
        self._levels: list[tuple[float, list[Tensor]]] = []

    def add(self, history: Sequence[tuple[float, Tensor]], sigma: float, denoised: Tensor) -> None:
        """Hold the forecast against what has been computed at `sigma`; history: what was known before."""
        if len(history) < 2 or abs(history[0][0] - sigma) < 1e-6:
            return
        forecast = (history[0][1] - history[1][1]).float() * reach_from(history, sigma, self._time)
        sums = torch.stack([self._sum(forecast * (denoised - history[0][1])), self._sum(forecast.square())])
        if self._levels and self._levels[0][0] == sigma:
            self._levels[0][1].append(sums)
        else:
            self._levels = [(sigma, [sums]), *self._levels[:1]]

    def _sum(self, products: Tensor) -> Tensor:
        """Over what is to share a damping: everything."""
        return products.sum()

    def damping(self, like: Tensor, ahead: float = 1.0, sigma: float | None = None) -> float | Tensor:
        """How far a forecast for the noise level `sigma` goes that reaches `ahead` of the last interval. No sync.

        One interval ahead: the mean of what is expected and what would have been best at the newest step, as one step
        alone says too little. Nearer, less is missing: what falls short grows with the square of the distance, so its
        share with the distance. The same for all conditionings: guidance would blow up a difference.
        """
        share: float | Tensor = self._expected
        # Not of this very level: some of its conditionings may not have been computed yet.
        sums = next((sums for level, sums in self._levels if level != sigma), None)
        if sums is not None:
            total = _total(sums)
            came_true = total[0] / total[1].clamp_min(1e-12)
            share = ((self._expected + came_true) / 2).clamp(LEAST_DAMPING, MOST_DAMPING).to(like.device, like.dtype)
        return 1.0 - (1.0 - share) * min(1.0, ahead)


def _total(sums: Sequence[Tensor]) -> Tensor:
    """The sum, in an order that does not depend on the sequence's."""
    if len(sums) < 3:
        return sums[0] if len(sums) == 1 else sums[0] + sums[1].to(sums[0].device)
    return torch.stack([each.to(sums[0].device) for each in sums]).sort(0).values.sum(0)


def token_reach(sigma: float, newest: Tensor, older: Tensor) -> Tensor:
    """As `reach`, per token: sigmas `[rows, N]` of the last two computations; returns `[rows, N, 1]`."""
    gap = newest - older
    same = gap.abs() < 1e-6
    weights = ((sigma - newest) / torch.where(same, torch.ones_like(gap), gap)).clamp_(0.0, MOST_REACH)
    return weights.masked_fill_(same, 0.0).unsqueeze(-1)


def forecast_tokens(kept: Tensor, older: Tensor, weights: Tensor) -> Tensor:
    """kept + weights · (kept − older), all `[rows, N, dim]`; a new tensor."""
    return torch.lerp(older, kept, (1.0 + weights).to(kept.dtype))
