"""What a forecast missed, once the next prediction is computed and the ones before it are known better.

The latents are a weighted sum of the predictions that the sampler was given (`engine.solver`), so an error can be added
to what a later call returns, over the ratio of the two weights (`engine.correction`). Correctors without a further
model call are known from solvers (UniPC, arXiv 2302.04867).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .forecast import reach
from .time_axes import Curves


@dataclass(frozen=True)
class Estimated:
    """A prediction that was forecast: at which of the sampler's calls and noise level, how far the forecast went."""

    call: int
    sigma: float
    damping: float | Tensor


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
    weights: Sequence[float],
    history: Sequence[tuple[float, Tensor]],
    sigma: float,
    denoised: Tensor,
    curves: Curves = STANDARD_CURVES,
) -> Tensor | None:
    """The sum of what the reuse steps `gap` missed, each times its weight; None where that is nothing.

    history: `(sigma, denoised)` newest first, as it was known to them; denoised: computed after them, at `sigma`. Their
    predictions are interpolated from both; the difference to what was forecast is what they missed.
    """
    if not any(weights) or not history:
        return None
    known = [(sigma, denoised), *history[:2]]
    levels = [curves.corrected_along(level) for level, _ in known]
    if len({round(level, 6) for level in levels}) < len(levels):
        return None
    shares = [0.0] * len(known)
    overshot: float | Tensor = 0.0
    for entry, weight in zip(gap, weights, strict=True):
        at = curves.corrected_along(entry.sigma)
        for place, share in enumerate(interpolation_weights(at, levels, curves.bend)):
            shares[place] += weight * share
        shares[1] -= weight
        if len(history) > 1:
            ahead = reach(*map(curves.along, (entry.sigma, history[0][0], history[1][0])))
            overshot = overshot + weight * ahead * entry.damping
    result = denoised * shares[0]
    for share, (_, value) in zip(shares[1:], history, strict=False):
        result.add_(value.to(result), alpha=share)
    if len(history) > 1:
        result.sub_(overshot * (history[0][1] - history[1][1]))
    return result
