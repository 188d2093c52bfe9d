"""Prior gains of forecast settings, from experience: initial settings of a search, and their expected gains.

The default settings suit the test models on average, so others are expected to lose a little until they were run.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from ...schedules import Forecast, usual_forecast
from ..problem.candidate import ONSETS, REACHES, RESPONSES
from ..problem.runner import SamplingConfig

CHANGED_DB = -0.25  # for each setting that differs from the usual one


def initial_forecasts(setting: SamplingConfig) -> tuple[Forecast, ...]:
    """Return forecast settings to begin with: the usual ones, and one setting changed at a time."""
    usual = usual_forecast(setting.cfg)
    changed = [replace(usual, reach=reach) for reach in REACHES]
    changed += [replace(usual, onset=onset) for onset in ONSETS]
    changed += [replace(usual, response=response) for response in RESPONSES]
    return tuple(dict.fromkeys((usual, *changed)))


def expected_forecast_gain(forecast: Forecast, setting: SamplingConfig) -> float:
    """Return the gain in dB over the usual settings that is expected before any run."""
    usual = asdict(usual_forecast(setting.cfg))
    return CHANGED_DB * sum(usual[name] != value for name, value in asdict(forecast).items())
