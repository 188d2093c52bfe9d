"""Refit: residuals drift with the noise level, and the fresh tokens of the same step show how.

Per row and channel, stale residuals follow the least-squares line through the fresh tokens' kept and new values.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE_TOKENS = 4.0  # so many made-up tokens that did not drift steady the fit when few are fresh
LEAST_SLOPE, MOST_SLOPE = 0.5, 1.5
MOST_WEIGHT = 1.5


def drift_of(kept_fresh: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset `[rows, 1, dim]` (fp32) of the line from kept to new residuals `[rows, M, dim]`.

    slope = cov(kept, new) / var(kept), pulled to 1 by the ridge and clamped to 0.5...1.5;
    offset = mean(new) − slope · mean(kept), shrunk likewise. The ridge keeps every quotient finite.
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
    slope = ((covariance + ridge * unit) / (variance + ridge * unit)).clamp_(LEAST_SLOPE, MOST_SLOPE)
    offset = (new_mean - slope * kept_mean) / (1.0 + ridge)
    return slope, offset


def refit_tokens(kept: Tensor, kept_fresh: Tensor, fresh: Tensor) -> Tensor:
    """All kept residuals `[rows, N, dim]` moved along the fresh tokens' line; a new tensor."""
    slope, offset = (t.to(kept.dtype) for t in drift_of(kept_fresh, fresh))
    return torch.addcmul(offset, kept, slope)


def change_weights(change: Tensor, indices: Tensor) -> Tensor:
    """How far each token moved relative to the selected ones, `[rows, N, 1]` in 0...1.5.

    change: RMS change of every token's input `[rows, N]`; indices: the selected tokens `[rows, M]`.
    """
    typical = change.gather(1, indices).mean(1, keepdim=True)
    weights = change / typical.clamp_min(torch.finfo(change.dtype).tiny)
    return weights.clamp_(0.0, MOST_WEIGHT).unsqueeze(-1)


def scaled_refit_tokens(kept: Tensor, kept_fresh: Tensor, fresh: Tensor, weights: Tensor) -> Tensor:
    """As `refit_tokens`, but each token moves only as far as its own input did.

    The fresh tokens are those that changed most, so the unscaled fit overshoots on the still ones. How far it does
    cannot be read off the fresh tokens, for the same reason: weights fitted to them drift towards the unscaled fit.
    """
    slope, offset = drift_of(kept_fresh, fresh)
    step = torch.addcmul(offset.to(kept.dtype), kept, (slope - 1.0).to(kept.dtype))
    return step.mul_(weights.to(kept.dtype)).add_(kept)
