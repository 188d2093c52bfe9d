"""Correction: when the next prediction is computed, the ones estimated before it are known better; make good the rest.

The latents are a weighted sum of the predictions that the sampler was told (`engine.solver`). What a reuse step missed
can so be added to what a later step returns, over the ratio of the two weights; as each step weighs more than those
before it, that makes it smaller. Correctors without a further model call are known from solvers (UniPC, arXiv
2302.04867).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .forecast import reach
from .times import Curves


@dataclass(frozen=True)
class Estimated:
    """A prediction that was forecast: at which step and noise level, how far the forecast went.

    part: its share of the step's predictions, less than 1 where the sampler asks several times per step.
    """

    step: int
    sigma: float
    damping: float | Tensor
    part: float = 1.0


STANDARD_CURVES = Curves()


def interpolation_weights(sigma: float, levels: Sequence[float], bend: float = 1.0) -> list[float]:
    """Weights at `sigma` of values known at two or three distinct noise levels, those around it first.

    Lagrange's, of the parabola, as far as `bend` goes, and for the rest those of the line through the first two.
    """
    weights = [math.prod((sigma - other) / (level - other) for other in levels if other != level) for level in levels]
    if bend == 1.0 or len(levels) < 3:
        return weights
    line = [*interpolation_weights(sigma, levels[:2]), 0.0]
    return [bend * parabola + (1.0 - bend) * straight for parabola, straight in zip(weights, line, strict=True)]


def missed(
    gap: Sequence[Estimated],
    shares: Sequence[float],
    history: Sequence[tuple[float, Tensor]],
    sigma: float,
    denoised: Tensor,
    curves: Curves = STANDARD_CURVES,
) -> Tensor | None:
    """The sum of what the reuse steps `gap` missed, each times its share; None where that is nothing.

    history: `(sigma, denoised)` newest first, as it was known to them; denoised: computed after them, at `sigma`. Their
    predictions are interpolated from both; the difference to what was forecast is what they missed.
    """
    if not any(shares) or not history:
        return None
    known = [(sigma, denoised), *history[:2]]
    levels = [curves.corrected_along(level) for level, _ in known]
    if len({round(level, 6) for level in levels}) < len(levels):
        return None
    weights = [0.0] * len(known)
    overshot: float | Tensor = 0.0
    for entry, share in zip(gap, shares, strict=True):
        at = curves.corrected_along(entry.sigma)
        for place, weight in enumerate(interpolation_weights(at, levels, curves.bend)):
            weights[place] += share * weight
        weights[1] -= share
        if len(history) > 1:
            ahead = reach(*map(curves.along, (entry.sigma, history[0][0], history[1][0])))
            overshot = overshot + share * ahead * entry.damping
    result = denoised * weights[0]
    for weight, (_, value) in zip(weights[1:], history, strict=False):
        result.add_(value.to(result), alpha=weight)
    if len(history) > 1:
        result.sub_(overshot * (history[0][1] - history[1][1]))
    return result
