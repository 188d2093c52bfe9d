"""How the reuse steps of a schedule are forecast: what a search may find besides budgets. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any

from ..errors import ScheduleError

TIME_NAMES = ("sigma", "power-0.75", "root", "log-snr")
LEAST_EXPECTED, MOST_EXPECTED = -0.5, 1.0


@dataclass(frozen=True)
class Forecast:
    """Settings of the estimator of mode `default`; what each is worth differs from one way of sampling to another.

    expected: how much of a forecast is taken to come true before the run has shown it, and weighed in alike later. More
        trusts forecasts more.
    along: the variable of the noise level in which predictions are continued, one of TIME_NAMES.
    corrected_along: that in which they are interpolated once the next one is computed.
    bend: how much of the bend of a parabola through three predictions interpolation follows, 0…1; 0 is a straight line
        between two. Predictions computed from latents that are off make parabolas swing.
    last_response: how much of what the latents of the last step miss its prediction is taken to follow, 0…1. No later
        step makes that good; with little noise left, predictions go along with their latents, but not all the way.
    """

    expected: float = 0.0
    along: str = "sigma"
    corrected_along: str = "sigma"
    bend: float = 1.0
    last_response: float = 0.0

    def __post_init__(self) -> None:
        _check("expected", self.expected, LEAST_EXPECTED, MOST_EXPECTED)
        _check("bend", self.bend, 0.0, 1.0)
        _check("last_response", self.last_response, 0.0, 1.0)
        for name in (self.along, self.corrected_along):
            if name not in TIME_NAMES:
                raise ScheduleError(f"Forecast: {brief(name)} is not one of {', '.join(TIME_NAMES)}.")


def _check(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most:
        raise ScheduleError(f"Forecast: {name} {brief(value)} is outside {least:g}...{most:g}.")


STANDARD_FORECAST = Forecast()


def forecast_of(data: Any, source: str) -> Forecast:
    """The settings in an object of a schedule file. Raises ScheduleError."""
    known = set(Forecast.__dataclass_fields__)
    if not isinstance(data, Mapping) or not set(data) <= known:
        raise ScheduleError(f'{source}: "forecast" must be an object with no other entries than {sorted(known)}.')
    return Forecast(**data)
