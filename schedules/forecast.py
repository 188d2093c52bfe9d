"""Forecast settings of a schedule: how its skipped steps are extrapolated and corrected. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any

from ..errors import ScheduleError
from .time_axes import TIME_AXES

MIN_PRIOR_GAIN, MAX_PRIOR_GAIN = -0.5, 1.0


@dataclass(frozen=True)
class Forecast:
    """Settings of the forecasts of skipped steps; the best ones differ between sampling configurations.

    prior_gain: extrapolation gain assumed before the run has measured one, and averaged with the measured one later.
        1 extrapolates fully; 0, the default, holds the newest prediction at first: across wide skips predictions curve
        back, and the correction at the next computed step recovers the rest.
    extrapolation_axis: time axis that predictions are extrapolated along, a key of TIME_AXES.
    interpolation_axis: time axis that they are interpolated along once the next one is computed.
    curvature: weight of the parabola through three predictions in that interpolation, 0…1; 0 is the line through two.
        A parabola swings too far where latents, and so predictions, have errors.
    final_step_gain: response of the last prediction to the remaining error of its latents, 0…1. No later step corrects
        it; with little noise left, predictions follow their latents, but not all the way.
    """

    prior_gain: float = 0.0
    extrapolation_axis: str = "sigma"
    interpolation_axis: str = "sigma"
    curvature: float = 1.0
    final_step_gain: float = 0.0

    def __post_init__(self) -> None:
        _check_range("prior_gain", self.prior_gain, MIN_PRIOR_GAIN, MAX_PRIOR_GAIN)
        _check_range("curvature", self.curvature, 0.0, 1.0)
        _check_range("final_step_gain", self.final_step_gain, 0.0, 1.0)
        for name in (self.extrapolation_axis, self.interpolation_axis):
            if name not in TIME_AXES:
                raise ScheduleError(f"Forecast: {brief(name)} is not one of {', '.join(TIME_AXES)}.")


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise ScheduleError(f"Forecast: {name} {brief(value)} is outside {low:g}...{high:g}.")


DEFAULT_FORECAST = Forecast()
