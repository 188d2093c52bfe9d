"""Scaled refit: as refit, but each stale token moves only as far as its own input did.

The fresh tokens are those that changed most, so the unscaled fit moves the others too far. The right measure cannot be
fitted to the fresh tokens, for the same reason: their own best weights are those of the unscaled fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...blocks.selection import Selection
from .base import TokenEstimator
from .refit import fit_drift

MAX_WEIGHT = 1.5


def change_weights(change: Tensor, indices: Tensor) -> Tensor:
    """Return the change of each token over the selected tokens' mean, `[rows, N, 1]`, clamped to 0…1.5.

    change: RMS change of every token's input `[rows, N]`; indices: the selected tokens `[rows, M]`.
    """
    typical = change.gather(1, indices).mean(1, keepdim=True)
    weights = change / typical.clamp_min(torch.finfo(change.dtype).tiny)
    return weights.clamp_(0.0, MAX_WEIGHT).unsqueeze(-1)


class ScaledRefit(TokenEstimator):
    """Kept residuals moved along the fresh tokens' line, in proportion to each token's own change."""

    name = "scaled_refit"

    def weights(self, sigma: float, change: Tensor, selection: Selection, state: Tensor | None) -> Tensor:
        return change_weights(change, selection.indices)

    def estimate(self, kept: Sequence[Tensor], selection: Selection, fresh: Tensor, weights: Tensor | None) -> Tensor:
        assert weights is not None
        residuals = kept[0]
        slope, offset = fit_drift(selection.gather(residuals), fresh)
        step = torch.addcmul(offset.to(residuals.dtype), residuals, (slope - 1.0).to(residuals.dtype))
        return step.mul_(weights.to(residuals.dtype)).add_(residuals)
