"""Expected gain of a candidate on prompts and seeds that it was not run on.

Gains vary by several dB between cases, so the best of a dozen candidates on few cases is mostly luck. We take gains
over the baseline case by case, cap them where differences are invisible, and shrink their mean toward a prior: the
posterior mean of a normal distribution. The fewer the cases and the larger the spread, the more it shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

from ..losses import mean_psnr

PSNR_CAP_DB = 60.0  # above it differences are invisible
MIN_STD_DB = 1.5  # of gains between cases
PRIOR_STD_DB = 1.0  # standard deviation of true gains around the prior


def gains_of(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Gains in dB over the reference's losses on the same cases, with PSNR capped at PSNR_CAP_DB."""

    def psnr(loss: float) -> float:
        return min(PSNR_CAP_DB, mean_psnr([loss]))

    return [psnr(own) - psnr(other) for own, other in zip(losses, reference, strict=False)]


def posterior_gain(
    losses: Sequence[float], reference: Sequence[float], prior: float, prior_std: float = PRIOR_STD_DB
) -> float:
    """Posterior mean of the gain in dB, given the gain expected before these runs and its standard deviation."""
    gains = gains_of(losses, reference)
    if not gains:
        return prior
    weight = len(gains) * prior_std**2 / _variance(gains)
    return (weight * fmean(gains) + prior) / (weight + 1.0)


def posterior_std(losses: Sequence[float], reference: Sequence[float], prior_std: float = PRIOR_STD_DB) -> float:
    """Standard deviation in dB of the distribution that has `posterior_gain` as its mean."""
    gains = gains_of(losses, reference)
    return prior_std if not gains else math.sqrt(1.0 / (len(gains) / _variance(gains) + 1.0 / prior_std**2))


def _variance(gains: Sequence[float]) -> float:
    """Variance of gains between cases, bounded from below; for one or two gains, a typical one."""
    return max(MIN_STD_DB**2, variance(gains) if len(gains) > 2 else 4.0 * MIN_STD_DB**2)


def beats_baseline(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """True if the mean PSNR or the median gain is better; the median, as one gain of eight may be ten dB."""
    return mean_psnr(losses) > mean_psnr(reference) or median(gains_of(losses, reference)) > 0.0


def significantly_worse(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """True if the mean gain is below 0 by more than twice its standard error."""
    gains = gains_of(losses, reference)
    return fmean(gains) < -2.0 * math.sqrt(_variance(gains) / len(gains))
