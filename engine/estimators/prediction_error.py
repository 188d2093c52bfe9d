"""Errors of skipped predictions, known once the next prediction is computed: those in between are interpolated.

Correctors without a further model call are known from solvers (UniPC, arXiv 2302.04867).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...schedules import TimeAxis, sigma_axis
from .prediction import History, step_ratio


@dataclass(frozen=True)
class TimeAxes:
    """Time axes of a run's forecasts; see `schedules.Forecast`.

    extrapolation: axis of the forecasts; interpolation: axis of the interpolation that shows their errors afterwards;
    curvature: weight of the parabola through three predictions in it, 0…1; the rest is the line through two.
    """

    extrapolation: TimeAxis = sigma_axis
    interpolation: TimeAxis = sigma_axis
    curvature: float = 1.0


DEFAULT_AXES = TimeAxes()


@dataclass(frozen=True)
class SkippedStep:
    """A prediction that was extrapolated. call: index among the sampler's calls; gain: of the extrapolation."""

    call: int
    sigma: float
    gain: float | Tensor


def interpolation_weights(level: float, levels: Sequence[float], curvature: float = 1.0) -> list[float]:
    """Return Lagrange weights at `level` of values known at two or three distinct levels, the two around it first.

    curvature: weight of the parabola; the rest is the line through the first two.
    """
    weights = [math.prod((level - other) / (known - other) for other in levels if other != known) for known in levels]
    if curvature == 1.0 or len(levels) < 3:
        return weights
    line = [*interpolation_weights(level, levels[:2]), 0.0]
    return [
        curvature * parabola + (1.0 - curvature) * straight for parabola, straight in zip(weights, line, strict=True)
    ]


def prediction_error(
    skipped: Sequence[SkippedStep],
    weights: Sequence[float],
    history: History,
    sigma: float,
    prediction: Tensor,
    axes: TimeAxes = DEFAULT_AXES,
) -> Tensor | None:
    """Return the weighted sum over `skipped` of interpolated minus extrapolated predictions; None if there are none.

    history: the predictions before the skipped ones, from which they were extrapolated; prediction: the one computed
    after them, at `sigma`. The sum is linear in these three: `totals` are their coefficients.
    """
    if not any(weights) or not history:
        return None
    known = [(sigma, prediction), *history[:2]]
    levels = [axes.interpolation(level) for level, _ in known]
    if len({round(level, 6) for level in levels}) < len(levels):
        return None
    totals = [0.0] * len(known)
    extrapolated: float | Tensor = 0.0
    for step, weight in zip(skipped, weights, strict=True):
        level = axes.interpolation(step.sigma)
        for index, share in enumerate(interpolation_weights(level, levels, axes.curvature)):
            totals[index] += weight * share
        totals[1] -= weight
        if len(history) > 1:
            ratio = step_ratio(*map(axes.extrapolation, (step.sigma, history[0][0], history[1][0])))
            extrapolated = extrapolated + weight * ratio * step.gain
    result = prediction * totals[0]
    for total, (_, value) in zip(totals[1:], history, strict=False):
        result.add_(value.to(result), alpha=total)
    if len(history) > 1:
        result.sub_(extrapolated * (history[0][1] - history[1][1]))
    return result
