"""Time axes: functions of the noise level along which predictions are assumed to move evenly. All are monotonic."""

from __future__ import annotations

import math
from collections.abc import Callable

TimeAxis = Callable[[float], float]
MAX_FLOW_SIGMA = 0.9995  # beyond it flow models see noise alone, and the logarithm would diverge


def sigma_axis(sigma: float) -> float:
    return sigma


def root_axis(sigma: float) -> float:
    """√(1 − σ) of a flow model."""
    return math.sqrt(1.0 - sigma) if sigma < 1.0 else 1.0 - sigma


def power_axis(sigma: float) -> float:
    """(1 − σ)^0.75 of a flow model: between `sigma_axis` and `root_axis`, and good where one of them is not."""
    return (1.0 - sigma) ** 0.75 if sigma < 1.0 else 1.0 - sigma


def log_snr_axis(sigma: float) -> float:
    """ln((1 − σ) / σ) of a flow model, continued linearly beyond MAX_FLOW_SIGMA."""
    level = min(max(sigma, 1e-6), MAX_FLOW_SIGMA)
    return math.log((1.0 - level) / level) - max(0.0, sigma - MAX_FLOW_SIGMA)


# By the names that schedule files use.
TIME_AXES: dict[str, TimeAxis] = {
    "sigma": sigma_axis,
    "power-0.75": power_axis,
    "root": root_axis,
    "log-snr": log_snr_axis,
}
