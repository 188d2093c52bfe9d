"""Prior gains of forecast settings, from experience: initial settings of a search, and their expected gains.

Measured on the two test models only. With fine steps and mild guidance, extrapolations hold and linear interpolation is
best. With strong guidance or coarse steps, extrapolation does harm and half a parabola's curvature gains.
"""

from __future__ import annotations

from dataclasses import replace

from ...schedules import DEFAULT_FORECAST, Forecast, equivalent_steps, flow_sigmas, uniform
from ..problem.candidate import FINAL_STEP_GAINS
from ..problem.runner import SamplingConfig

MAX_MILD_CFG, MIN_FINE_STEPS = 4.2, 16  # guidance scale; steps over all noise levels
WHOLE_RUN = uniform("whole run", 1.0, flow_sigmas(30))
AGGRESSIVE = (
    Forecast(0.5, "power-0.75", "power-0.75", 0.0),  # gains on both models; the next ones gain less on one
    Forecast(0.5, "root", "root", 0.0),
    Forecast(0.5, "sigma", "sigma", 0.0),
    Forecast(0.25, "power-0.75", "power-0.75", 0.0),
)
AGGRESSIVE_AXES = {(each.extrapolation_axis, each.interpolation_axis) for each in AGGRESSIVE}
CONSERVATIVE = (Forecast(0.0, "sigma", "sigma", 0.5), Forecast(0.0, "sigma", "sigma", 0.0))
# dB over the default forecast: (aggressive, conservative). The first aggressive one gains BEST_EXTRA_GAIN more.
GAINS_SMOOTH, GAINS_UNSTEADY = (1.5, 0.75), (-1.0, 0.25)
BEST_EXTRA_GAIN = 0.5
FINAL_STEP_EXTRA_GAIN = 0.25


def is_smooth(setting: SamplingConfig) -> bool:
    """Tell whether predictions are expected to change smoothly from step to step."""
    cfg = 1.0 if setting.cfg is None else setting.cfg
    return cfg <= MAX_MILD_CFG and equivalent_steps(WHOLE_RUN, setting.sigmas) >= MIN_FINE_STEPS


def initial_forecasts(setting: SamplingConfig) -> tuple[Forecast, ...]:
    """Return forecast settings to begin with, largest prior gain first.

    The second is the best of those for the opposite case, as a model may differ from the test models.
    """
    first, then = (AGGRESSIVE, CONSERVATIVE) if is_smooth(setting) else (CONSERVATIVE, AGGRESSIVE)
    forecasts = (first[0], then[0], *first[1:], *then[1:])
    return tuple(replace(each, final_step_gain=FINAL_STEP_GAINS[-1]) for each in forecasts)


def expected_forecast_gain(forecast: Forecast, setting: SamplingConfig) -> float:
    """Return the gain in dB over the default forecast that is expected before any run.

    0 for settings that were never measured, but less for those that extrapolate where predictions are not smooth.
    """
    if forecast.final_step_gain:
        return expected_forecast_gain(replace(forecast, final_step_gain=0.0), setting) + FINAL_STEP_EXTRA_GAIN
    smooth = is_smooth(setting)
    aggressive, conservative = GAINS_SMOOTH if smooth else GAINS_UNSTEADY
    if forecast == DEFAULT_FORECAST:
        return 0.0
    if forecast in CONSERVATIVE:
        return conservative
    if forecast.prior_gain <= 0.0:
        return 0.0
    if forecast.curvature > 0.0 or (forecast.extrapolation_axis, forecast.interpolation_axis) not in AGGRESSIVE_AXES:
        return min(0.0, aggressive)
    return aggressive + (BEST_EXTRA_GAIN if smooth and forecast == AGGRESSIVE[0] else 0.0)
