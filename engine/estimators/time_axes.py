"""Variables of the noise level along which predictions may be taken to move evenly. Each falls or rises throughout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Time = Callable[[float], float]
NOISY = 0.9995  # beyond it flow models see noise alone, and the logarithm would run away


def by_sigma(sigma: float) -> float:
    return sigma


def by_root(sigma: float) -> float:
    """√(1 − σ) of a flow model."""
    return math.sqrt(1.0 - sigma) if sigma < 1.0 else 1.0 - sigma


def by_power(sigma: float) -> float:
    """(1 − σ)^0.75 of a flow model: between the two above, and good where one of them is not."""
    return (1.0 - sigma) ** 0.75 if sigma < 1.0 else 1.0 - sigma


def by_log_snr(sigma: float) -> float:
    """ln((1 − σ) / σ) of a flow model."""
    level = min(max(sigma, 1e-6), NOISY)
    return math.log((1.0 - level) / level) - max(0.0, sigma - NOISY)


@dataclass(frozen=True)
class Curves:
    """Along what predictions are continued and interpolated, and how bent; see `schedules.Forecast`."""

    along: Time = by_sigma
    corrected_along: Time = by_sigma
    bend: float = 1.0


TIMES: dict[str, Time] = {"sigma": by_sigma, "power-0.75": by_power, "root": by_root, "log-snr": by_log_snr}
