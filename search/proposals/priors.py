"""What ways to forecast have gained where they were tried: where a search begins, and what it expects of them.

Known from the two test models only. Where steps are fine and the guidance is mild, forecasts come true and straight
lines interpolate best; where predictions swing, trust in forecasts does harm, and half a parabola's bend is what gains.
"""

from __future__ import annotations

from dataclasses import replace

from ...schedules import STANDARD_FORECAST, Forecast, flow_sigmas, steps_as_fine, uniform
from ..candidate import LAST_RESPONSES
from ..problem import Setting

MOST_MILD, FEWEST_FINE = 4.2, 16  # guidance scale; steps of a run over all noise levels
WHOLE_RUN = uniform("whole run", 1.0, flow_sigmas(30))
TRUSTING = (
    Forecast(0.5, "power-0.75", "power-0.75", 0.0),  # good on both models; those below gain less on one
    Forecast(0.5, "root", "root", 0.0),
    Forecast(0.5, "sigma", "sigma", 0.0),
    Forecast(0.25, "power-0.75", "power-0.75", 0.0),
)
TRUSTED_TIMES = {(way.along, way.corrected_along) for way in TRUSTING}
CAUTIOUS = (Forecast(0.0, "sigma", "sigma", 0.5), Forecast(0.0, "sigma", "sigma", 0.0))
# dB over the standard way: of trust in straight lines along those times, of caution. The first that trusts gains more.
GAINS_WHERE_STEADY, GAINS_WHERE_SWINGING = (1.5, 0.75), (-1.0, 0.25)
MORE_OF_THE_FIRST = 0.5
GAIN_OF_LAST_RESPONSE = 0.25


def is_steady(setting: Setting) -> bool:
    """Whether predictions may be expected to go on as they went."""
    cfg = setting.facts.get("sampling", {}).get("cfg", 1.0)
    return cfg <= MOST_MILD and steps_as_fine(WHOLE_RUN, setting.sigmas) >= FEWEST_FINE


def promising(setting: Setting) -> tuple[Forecast, ...]:
    """Ways to begin with, those of the most promise first; the others too, as another model may be another case."""
    first, then = (TRUSTING, CAUTIOUS) if is_steady(setting) else (CAUTIOUS, TRUSTING)
    ways = (first[0], then[0], *first[1:], *then[1:])
    return tuple(replace(way, last_response=LAST_RESPONSES[-1]) for way in ways)


def usual_gain(forecast: Forecast, setting: Setting) -> float:
    """dB over the standard way that one is expected to gain before any run.

    Of other ways nothing is expected, but that any trust does harm where predictions swing.
    """
    if forecast.last_response:
        return usual_gain(replace(forecast, last_response=0.0), setting) + GAIN_OF_LAST_RESPONSE
    steady = is_steady(setting)
    trusting, cautious = GAINS_WHERE_STEADY if steady else GAINS_WHERE_SWINGING
    if forecast == STANDARD_FORECAST:
        return 0.0
    if forecast in CAUTIOUS:
        return cautious
    if forecast.expected <= 0.0:
        return 0.0
    if forecast.bend > 0.0 or (forecast.along, forecast.corrected_along) not in TRUSTED_TIMES:
        return min(0.0, trusting)
    return trusting + (MORE_OF_THE_FIRST if steady and forecast == TRUSTING[0] else 0.0)
