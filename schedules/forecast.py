"""Forecast settings: what is assumed of a run's predictions where they are not computed. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from reprlib import repr as brief
from typing import Any

from ..errors import ScheduleError
from ..limits import MAX_CFG

ONSETS, REACHES, RESPONSES, SWINGS = (1e-4, 1.0), (0.05, 20.0), (0.0, 1.5), (0.0, 1000.0)  # least and largest values
SWING_OF_GUIDANCE = 0.6  # times the square of guidance − 1
MAX_USUAL_SWING = 20.0
STRONG_GUIDANCE = 2.5  # beyond 1: there predictions repeat half as much of an error in its own direction


@dataclass(frozen=True)
class Forecast:
    """Settings of forecasts and corrections; the best ones differ a little between models. See `PredictionPrior`.

    onset: share of signal, 1 − σ, below which predictions hardly change: the smaller, the earlier content appears.
    reach: distance in ln(1 − σ) over which predictions stay alike; the larger, the further forecasts continue a line.
    response: share of an error in its latents that a prediction repeats where content is decided.
    swing: variance that guidance adds to predictions while content is not decided, over that of the rest.
    """

    onset: float = 0.015
    reach: float = 2.0
    response: float = 1.0
    swing: float = 0.0

    def __post_init__(self) -> None:
        for name, limits in (("onset", ONSETS), ("reach", REACHES), ("response", RESPONSES), ("swing", SWINGS)):
            _check_range(name, getattr(self, name), *limits)


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise ScheduleError(f"Forecast: {name} {brief(value)} is outside {low:g}...{high:g}.")


DEFAULT_FORECAST = Forecast()


def usual_forecast(guidance: float | None) -> Forecast:
    """Return the settings for a run with this scale of guidance; None or 1: without guidance."""
    known = 1.0 if guidance is None or not math.isfinite(guidance) else max(-MAX_CFG, min(MAX_CFG, guidance))
    beyond = max(0.0, known - 1.0, -known)  # a negative scale turns the prompt's prediction around
    response = DEFAULT_FORECAST.response / (1.0 + (beyond / STRONG_GUIDANCE) ** 2)
    return replace(DEFAULT_FORECAST, response=response, swing=min(MAX_USUAL_SWING, SWING_OF_GUIDANCE * beyond * beyond))
