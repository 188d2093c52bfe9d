"""Hold: stale tokens keep the residual of the step that last computed them (the paper's rule, §3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...blocks.selection import Selection
from .base import TokenEstimator


class Hold(TokenEstimator):
    """Kept residuals as they are."""

    name = "hold"
    forecasts = False
    corrects = False

    def estimate(self, kept: Sequence[Tensor], selection: Selection, fresh: Tensor, weights: Tensor | None) -> Tensor:
        return kept[0]
