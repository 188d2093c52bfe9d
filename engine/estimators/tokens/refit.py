"""Refit: residuals drift with the noise level, and the fresh tokens of the same step show how.

Per row and channel, stale residuals follow the least-squares line through the fresh tokens' kept and new values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...blocks.selection import Selection
from .base import TokenEstimator

RIDGE_TOKENS = 4.0  # tokens without drift that are added to the fit, to steady it when few tokens are fresh
MIN_SLOPE, MAX_SLOPE = 0.5, 1.5


def fit_drift(kept_fresh: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and offset `[rows, 1, dim]` (fp32) of the line from kept to new residuals `[rows, M, dim]`.

    slope = cov(kept, new) / var(kept), drawn to 1 by the ridge and clamped to 0.5…1.5;
    offset = mean(new) − slope · mean(kept), drawn to 0 likewise. The ridge keeps every quotient finite.
    """
    kept_fresh, fresh = kept_fresh.float(), fresh.float()
    count = fresh.shape[1]
    kept_mean, new_mean = kept_fresh.mean(1, keepdim=True), fresh.mean(1, keepdim=True)
    kept_square = torch.linalg.vecdot(kept_fresh, kept_fresh, dim=1).unsqueeze(1) / count
    product = torch.linalg.vecdot(kept_fresh, fresh, dim=1).unsqueeze(1) / count
    variance = (kept_square - kept_mean.square()).clamp_min_(0.0)
    covariance = product - kept_mean * new_mean
    ridge = RIDGE_TOKENS / count
    # A share of the mean square keeps the denominator off zero where a channel hardly varies over the tokens.
    unit = variance + 1e-4 * kept_square + torch.finfo(torch.float32).tiny
    slope = ((covariance + ridge * unit) / (variance + ridge * unit)).clamp_(MIN_SLOPE, MAX_SLOPE)
    offset = (new_mean - slope * kept_mean) / (1.0 + ridge)
    return slope, offset


class Refit(TokenEstimator):
    """All kept residuals moved along the fresh tokens' line."""

    name = "refit"

    def estimate(self, kept: Sequence[Tensor], selection: Selection, fresh: Tensor, weights: Tensor | None) -> Tensor:
        residuals = kept[0]
        slope, offset = (t.to(residuals.dtype) for t in fit_drift(selection.gather(residuals), fresh))
        return torch.addcmul(offset, residuals, slope)
