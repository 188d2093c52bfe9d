"""What ways to forecast have gained where they were tried: where a search begins, and what it expects of them.

Known from the two test models only. Where steps are fine and the guidance is mild, forecasts come true and straight
lines interpolate best; where predictions swing, trust in forecasts does harm, and half a parabola's bend is what gains.
"""

from __future__ import annotations

from dataclasses import replace

from ...schedules import DEFAULT_FORECAST, Forecast, equivalent_steps, flow_sigmas, uniform
from ..candidate import FINAL_STEP_GAINS
from ..problem import SamplingConfig

MAX_MILD_CFG, MIN_FINE_STEPS = 4.2, 16  # guidance scale; steps of a run over all noise levels
WHOLE_RUN = uniform("whole run", 1.0, flow_sigmas(30))
AGGRESSIVE = (
    Forecast(0.5, "power-0.75", "power-0.75", 0.0),  # good on both models; those below gain less on one
    Forecast(0.5, "root", "root", 0.0),
    Forecast(0.5, "sigma", "sigma", 0.0),
    Forecast(0.25, "power-0.75", "power-0.75", 0.0),
)
AGGRESSIVE_AXES = {(way.extrapolation_axis, way.interpolation_axis) for way in AGGRESSIVE}
CONSERVATIVE = (Forecast(0.0, "sigma", "sigma", 0.5), Forecast(0.0, "sigma", "sigma", 0.0))
# dB over the standard way: of trust in straight lines along those times, of caution. The first that trusts gains more.
GAINS_SMOOTH, GAINS_UNSTEADY = (1.5, 0.75), (-1.0, 0.25)
BEST_EXTRA_GAIN = 0.5
FINAL_STEP_EXTRA_GAIN = 0.25


def is_smooth(setting: SamplingConfig) -> bool:
    """Whether predictions may be expected to go on as they went."""
    cfg = setting.facts.get("sampling", {}).get("cfg", 1.0)
    return cfg <= MAX_MILD_CFG and equivalent_steps(WHOLE_RUN, setting.sigmas) >= MIN_FINE_STEPS


def initial_forecasts(setting: SamplingConfig) -> tuple[Forecast, ...]:
    """Ways to begin with, those of the most promise first; the others too, as another model may be another case."""
    first, then = (AGGRESSIVE, CONSERVATIVE) if is_smooth(setting) else (CONSERVATIVE, AGGRESSIVE)
    ways = (first[0], then[0], *first[1:], *then[1:])
    return tuple(replace(way, final_step_gain=FINAL_STEP_GAINS[-1]) for way in ways)


def prior_gain(forecast: Forecast, setting: SamplingConfig) -> float:
    """dB over the standard way that one is expected to gain before any run.

    Of other ways nothing is expected, but that any trust does harm where predictions swing.
    """
    if forecast.final_step_gain:
        return prior_gain(replace(forecast, final_step_gain=0.0), setting) + FINAL_STEP_EXTRA_GAIN
    steady = is_smooth(setting)
    trusting, cautious = GAINS_SMOOTH if steady else GAINS_UNSTEADY
    if forecast == DEFAULT_FORECAST:
        return 0.0
    if forecast in CONSERVATIVE:
        return cautious
    if forecast.prior_gain <= 0.0:
        return 0.0
    if forecast.curvature > 0.0 or (forecast.extrapolation_axis, forecast.interpolation_axis) not in AGGRESSIVE_AXES:
        return min(0.0, trusting)
    return trusting + (BEST_EXTRA_GAIN if steady and forecast == AGGRESSIVE[0] else 0.0)
