"""How the reuse steps of a schedule are forecast: what a search may find besides budgets. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ScheduleError

TIME_NAMES = ("sigma", "root", "log-snr")
LEAST_EXPECTED, MOST_EXPECTED = -0.5, 1.0


@dataclass(frozen=True)
class Forecast:
    """Settings of the estimator of mode `default`; what each is worth differs from one way of sampling to another.

    expected: how much of a forecast is taken to come true before the run has shown it, and weighed in alike later. More
        trusts forecasts more.
    along: the variable of the noise level in which predictions are continued, one of TIME_NAMES.
    corrected_along: that in which they are interpolated once the next one is computed.
    """

    expected: float = 0.0
    along: str = "sigma"
    corrected_along: str = "sigma"

    def __post_init__(self) -> None:
        value = self.expected
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not LEAST_EXPECTED <= value <= MOST_EXPECTED:
            raise ScheduleError(f"Forecast: expected {value!r} is outside {LEAST_EXPECTED}...{MOST_EXPECTED}.")
        for name in (self.along, self.corrected_along):
            if name not in TIME_NAMES:
                raise ScheduleError(f"Forecast: {name!r} is not one of {', '.join(TIME_NAMES)}.")


STANDARD_FORECAST = Forecast()


def forecast_of(data: Any, source: str) -> Forecast:
    """The settings in an object of a schedule file. Raises ScheduleError."""
    known = set(Forecast.__dataclass_fields__)
    if not isinstance(data, Mapping) or not set(data) <= known:
        raise ScheduleError(f'{source}: "forecast" must be an object with no other entries than {sorted(known)}.')
    return Forecast(**data)
