"""Forecast: what the model computes moves almost linearly in sigma, so the last two computed values give the next.

On reuse steps for its prediction, the denoised latents; on token steps for each token's residuals (two values kept per
block). That denoised latents are steadier than noise or flow to build on is known from guided samplers
(DPM-Solver++, arXiv 2211.01095); noise that a sampler adds does not disturb them either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_REACH = 4.0  # how many of the last interval a forecast may reach ahead
# The line bends back where reuse gaps are wide: going all the way along it overshoots. What half the way leaves is made
# good by the correction.
DAMPING = 0.5
# A forecast is given up for holding where its last squared error was this many times that of holding.
TOLERATED = 1.5


def reach(sigma: float, newest: float, older: float) -> float:
    """(σ − σ₁) / (σ₁ − σ₂), the weight of the last difference; 0 where the two levels coincide."""
    gap = newest - older
    if abs(gap) < 1e-6:
        return 0.0
    return min(MOST_REACH, max(0.0, (sigma - newest) / gap))


def forecast_denoised(
    history: Sequence[tuple[float, Tensor]], sigma: float, damping: float | Tensor = DAMPING
) -> Tensor:
    """x₁ + damping · reach · (x₁ − x₂) from `history`, `(sigma, denoised)` newest first; one entry alone is held."""
    (newest, denoised), *rest = history
    ahead = reach(sigma, newest, rest[0][0]) if rest else 0.0
    return denoised if ahead == 0.0 else torch.lerp(rest[0][1], denoised, 1.0 + damping * ahead)


class Trial:
    """What a forecast of the newest computed step would have missed, over all its conditionings; and holding, beside.

    Where large steps or strong guidance make the predictions swing, forecasts do harm. Each computed step shows it.
    """

    def __init__(self) -> None:
        self._sigma = float("nan")
        self._missed: Tensor | None = None  # squared errors of forecast and hold, [2]
        self._trusted: Tensor | None = None

    def add(self, history: Sequence[tuple[float, Tensor]], sigma: float, denoised: Tensor) -> None:
        """Try both on what has been computed at `sigma`; history: what was known before."""
        if len(history) < 2 or abs(history[0][0] - sigma) < 1e-6:
            return
        guesses = (forecast_denoised(history, sigma), history[0][1])
        missed = torch.stack([(guess - denoised).square().sum(dtype=torch.float32) for guess in guesses])
        if self._missed is not None and sigma == self._sigma:
            missed += self._missed.to(missed.device)
        else:
            self._trusted = None
        self._sigma, self._missed = sigma, missed

    def trust(self, like: Tensor) -> float | Tensor:
        """1 where the newest forecast was no worse than holding, else 0; 0 before there was any. No sync.

        Where it was worse the model answers every deviation with a stronger one to the other side; making good what
        was missed would then be too much. The first conditioning asked decides for all of a step: guidance would
        blow up a difference between them.
        """
        if self._missed is None:
            return 0.0
        if self._trusted is None:
            forecast, hold = self._missed.unbind()
            self._trusted = forecast <= hold
        return self._trusted.to(like.device, like.dtype)

    def damping(self, like: Tensor) -> float | Tensor:
        """How far forecasts may go: DAMPING, or 0 where the last one did clearly worse than holding. No sync."""
        if self._missed is None:
            return DAMPING
        forecast, hold = self._missed.to(like.device).unbind()
        return DAMPING * (forecast <= TOLERATED * hold).to(like.dtype)


def token_reach(sigma: float, newest: Tensor, older: Tensor) -> Tensor:
    """As `reach`, per token: sigmas `[rows, N]` of the last two computations; returns `[rows, N, 1]`."""
    gap = newest - older
    same = gap.abs() < 1e-6
    weights = ((sigma - newest) / torch.where(same, torch.ones_like(gap), gap)).clamp_(0.0, MOST_REACH)
    return weights.masked_fill_(same, 0.0).unsqueeze(-1)


def forecast_tokens(kept: Tensor, older: Tensor, weights: Tensor) -> Tensor:
    """kept + weights · (kept − older), all `[rows, N, dim]`; a new tensor."""
    return torch.lerp(older, kept, (1.0 + weights).to(kept.dtype))
