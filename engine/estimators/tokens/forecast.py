"""Mode `forecast`: each stale token's residual is extrapolated in sigma from its last two computed values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...blocks.selection import Selection
from .base import TokenEstimator

MAX_STEP_RATIO = 4.0  # of an extrapolated distance over the last interval
SAME_LEVEL = 1e-6  # levels closer than this give no slope


def token_step_ratios(sigma: float, newest: Tensor, older: Tensor) -> Tensor:
    """Return (σ − newest) / (newest − older) per token, in 0…MAX_STEP_RATIO, `[rows, N, 1]`; 0 where the two coincide.

    newest, older: sigmas of the token's last computations, `[rows, N]`.
    """
    interval = newest - older
    same = interval.abs() < SAME_LEVEL
    ratios = (sigma - newest) / torch.where(same, torch.ones_like(interval), interval)
    return ratios.clamp_(0.0, MAX_STEP_RATIO).masked_fill_(same, 0.0).unsqueeze(-1)


class TokenForecast(TokenEstimator):
    """Kept + ratio · (kept − older). State: sigmas of each token's last two computations, `[2, rows, N]`."""

    name = "forecast"
    slots = 2
    corrects = False

    def state_bytes(self, rows: int, tokens: int) -> int:
        return 2 * rows * tokens * torch.float32.itemsize

    def begin(self, sigma: float, ages: Tensor, previous: Tensor | None) -> Tensor:
        now = torch.full_like(ages, sigma)
        return torch.stack([now, now if previous is None else previous[0]])

    def weights(self, sigma: float, change: Tensor, selection: Selection, state: Tensor | None) -> Tensor:
        assert state is not None
        return token_step_ratios(sigma, state[0], state[1])

    def advance(self, sigma: float, selection: Selection, state: Tensor | None) -> None:
        assert state is not None
        newest, older = state
        older.scatter_(1, selection.indices, newest.gather(1, selection.indices))
        newest.scatter_(1, selection.indices, sigma)

    def estimate(self, kept: Sequence[Tensor], selection: Selection, fresh: Tensor, weights: Tensor | None) -> Tensor:
        assert weights is not None
        return torch.lerp(kept[1], kept[0], (1.0 + weights).to(kept[0].dtype))
