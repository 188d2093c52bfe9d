"""Hold: what is not computed keeps the value of the step that last computed it (the paper's rule, §3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def hold_tokens(kept: Tensor) -> Tensor:
    """Stale residuals `[rows, N, dim]` as they are."""
    return kept


def hold_denoised(history: Sequence[tuple[float, Tensor]], sigma: float) -> Tensor:
    """The newest prediction; `history` is `(sigma, denoised)`, newest first."""
    return history[0][1]
