"""A prior for models whose predictions are a parabola of sigma: with it estimates are exact, whatever is skipped.

So a test of corrections tests these alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from astraea.schedules import PredictionPrior
from astraea.schedules.prediction_prior import Observation


class Parabolas(PredictionPrior):
    """Knows that predictions are a parabola of sigma and do not follow their latents."""

    def forecast_weights(self, level: float, known: Sequence[float]) -> tuple[float, ...]:
        return lagrange(level, known)

    def observe(
        self, level: float, older: Sequence[float], skipped: Sequence[float], weights: Sequence[float]
    ) -> Observation:
        own = (1.0, *(0.0 for _ in older))
        return Observation(own, tuple(lagrange(each, (level, *older)) for each in skipped))


def lagrange(level: float, known: Sequence[float]) -> tuple[float, ...]:
    if len(set(known)) < len(known):
        return (1.0, *(0.0 for _ in known[1:]))
    return tuple(math.prod((level - o) / (own - o) for o in known if o != own) for own in known)
