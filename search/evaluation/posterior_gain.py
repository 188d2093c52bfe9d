"""Expected gain of a candidate on prompts and seeds that it was not run on.

Gains vary by several dB between cases, so the best of a dozen candidates on few cases is mostly luck. Gains over the
baseline are therefore taken case by case, from PSNR capped where differences are invisible, and their mean is shrunk
toward a prior: the posterior mean of a normal distribution. With fewer cases or a larger spread it shrinks more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

from ..problem.losses import TYPICAL_STD_DB, mean_psnr

PSNR_CAP_DB = 60.0  # above it differences are invisible
MIN_STD_DB = 1.5  # of gains between cases
PRIOR_STD_DB = 1.0  # standard deviation of true gains around the prior


def measure_gains(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return gains in dB over the reference's losses on the same cases, with PSNR capped at PSNR_CAP_DB."""

    def psnr(loss: float) -> float:
        return min(PSNR_CAP_DB, mean_psnr([loss]))

    return [psnr(own) - psnr(other) for own, other in zip(losses, reference, strict=False)]


def posterior_gain(
    losses: Sequence[float], reference: Sequence[float], prior: float, prior_std: float = PRIOR_STD_DB
) -> float:
    """Return the posterior mean of the gain in dB. prior, prior_std: mean and standard deviation before these runs."""
    gains = measure_gains(losses, reference)
    if not gains:
        return prior
    weight = len(gains) * prior_std**2 / _variance(gains)
    return (weight * fmean(gains) + prior) / (weight + 1.0)


def posterior_std(losses: Sequence[float], reference: Sequence[float], prior_std: float = PRIOR_STD_DB) -> float:
    """Return the standard deviation in dB of the distribution that has `posterior_gain` as its mean."""
    gains = measure_gains(losses, reference)
    return prior_std if not gains else math.sqrt(1.0 / (len(gains) / _variance(gains) + 1.0 / prior_std**2))


def _variance(gains: Sequence[float]) -> float:
    """Return the variance of gains between cases, bounded from below; for one or two gains, a typical one."""
    return max(MIN_STD_DB**2, variance(gains) if len(gains) > 2 else TYPICAL_STD_DB**2)


def beats_baseline(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Tell whether the mean PSNR is better, or the median gain above 0: a single gain of 10 dB may decide the mean."""
    return mean_psnr(losses) > mean_psnr(reference) or median(measure_gains(losses, reference)) > 0.0


def significantly_worse(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Tell whether the mean gain is below 0 by more than twice its standard error."""
    gains = measure_gains(losses, reference)
    return fmean(gains) < -2.0 * math.sqrt(_variance(gains) / len(gains))
