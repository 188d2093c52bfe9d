"""Correction: when the next prediction is computed, the ones estimated before it are known better; make good the rest.

Along the sampler's path d(x/σ) = x₀ d(1/σ): the latents gather the denoised latents, weighted by the steps of 1/σ (an
Euler step does exactly that, the others in effect). What a reuse step missed can so be added to what a later step
returns, over the ratio of the two weights. As 1/σ grows ever faster, that makes it smaller, and at the last step it is
nothing. Correctors without a further model call are known from solvers (UniPC, arXiv 2302.04867); this one does not
need to know the solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .forecast import reach


@dataclass(frozen=True)
class Estimated:
    """A prediction that was forecast: at which noise level, how much 1/σ it was used for, how far the forecast went."""

    sigma: float
    span: float
    damping: float | Tensor


def interpolation_weights(sigma: float, levels: Sequence[float]) -> list[float]:
    """Lagrange weights at `sigma` of values known at two or three distinct noise levels."""
    return [math.prod((sigma - other) / (level - other) for other in levels if other != level) for level in levels]


def correction(
    gap: Sequence[Estimated], history: Sequence[tuple[float, Tensor]], sigma: float, denoised: Tensor, span: float
) -> Tensor | None:
    """What to add to the prediction `denoised` at `sigma`, which is used for `span` of 1/σ; None where it is nothing.

    gap: the reuse steps since `history`, `(sigma, denoised)` newest first, was known. Their predictions are
    interpolated from that history and `denoised`; the difference to what was forecast is what they missed.
    """
    if not gap or not history or not 0.0 < span < float("inf"):
        return None
    known = [(sigma, denoised), *history[:2]]
    levels = [level for level, _ in known]
    if len({round(level, 6) for level in levels}) < len(levels):
        return None
    weights = [0.0] * len(known)
    overshot: float | Tensor = 0.0
    for entry in gap:
        share = entry.span / span
        for place, weight in enumerate(interpolation_weights(entry.sigma, levels)):
            weights[place] += share * weight
        weights[1] -= share
        if len(history) > 1:
            ahead = reach(entry.sigma, history[0][0], history[1][0])
            overshot = overshot + share * ahead * entry.damping
    result = denoised * weights[0]
    for weight, (_, value) in zip(weights[1:], history, strict=False):
        result.add_(value.to(result), alpha=weight)
    if len(history) > 1:
        result.sub_(overshot * (history[0][1] - history[1][1]))
    return result
