"""Forecast: residuals move almost linearly in sigma, so the last two computed values give the next.

For the stack's total residual on reuse steps, and per token on token steps (two values kept per block).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_REACH = 4.0  # how many of the last interval a forecast may reach ahead
# The line bends back where reuse gaps are wide: going all the way along it overshoots.
TOTAL_DAMPING = 0.85


def reach(sigma: float, newest: float, older: float) -> float:
    """(σ − σ₁) / (σ₁ − σ₂), the weight of the last difference; 0 where the two levels coincide."""
    gap = newest - older
    if abs(gap) < 1e-6:
        return 0.0
    return min(MOST_REACH, max(0.0, (sigma - newest) / gap))


def forecast_total(history: Sequence[tuple[float, Tensor]], sigma: float) -> Tensor:
    """R₁ + 0.85 · reach · (R₁ − R₂) from `history`, `(sigma, total)` newest first; one entry alone is held."""
    (newest, total), *rest = history
    if not rest:
        return total
    weight = TOTAL_DAMPING * reach(sigma, newest, rest[0][0])
    return total if weight == 0.0 else torch.lerp(rest[0][1], total, 1.0 + weight)


def token_reach(sigma: float, newest: Tensor, older: Tensor) -> Tensor:
    """As `reach`, per token: sigmas `[rows, N]` of the last two computations; returns `[rows, N, 1]`."""
    gap = newest - older
    same = gap.abs() < 1e-6
    weights = ((sigma - newest) / torch.where(same, torch.ones_like(gap), gap)).clamp_(0.0, MOST_REACH)
    return weights.masked_fill_(same, 0.0).unsqueeze(-1)


def forecast_tokens(kept: Tensor, older: Tensor, weights: Tensor) -> Tensor:
    """kept + weights · (kept − older), all `[rows, N, dim]`; a new tensor."""
    return torch.lerp(older, kept, (1.0 + weights).to(kept.dtype))
