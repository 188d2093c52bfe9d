"""How much a candidate is to be expected to gain on prompts and seeds that it was not run on.

What a change of schedule does differs by several dB from pair to pair, so that of a dozen candidates judged on a few
pairs one always looks good. Therefore gains are taken pair by pair over the schedule that one has without a search,
differences beyond what can be seen are not counted, and the mean is drawn to what was expected before the runs, the
more so the fewer they are and the more they differ: the posterior mean of a normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

from .evaluator import mean_psnr

PSNR_CAP_DB = 60.0  # from here on more is not seen
MIN_STD_DB = 1.5  # of gains from pair to pair
PRIOR_STD_DB = 1.0  # how far expectations are off, typically


def gains_of(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """dB over the reference's losses on the same cases, as far as it can be seen."""

    def seen(loss: float) -> float:
        return min(PSNR_CAP_DB, mean_psnr([loss]))

    return [seen(own) - seen(other) for own, other in zip(losses, reference, strict=False)]


def posterior_gain(
    losses: Sequence[float], reference: Sequence[float], before: float, skip_selftest: float = PRIOR_STD_DB
) -> float:
    """dB to be expected elsewhere. before: what was expected without these runs; skip_selftest: how far that is off."""
    gains = gains_of(losses, reference)
    if not gains:
        return before
    weight = len(gains) * skip_selftest**2 / _spread(gains)
    return (weight * fmean(gains) + before) / (weight + 1.0)


def posterior_std(losses: Sequence[float], reference: Sequence[float], skip_selftest: float = PRIOR_STD_DB) -> float:
    """Standard deviation of what `posterior_gain` tells, in dB."""
    gains = gains_of(losses, reference)
    return skip_selftest if not gains else math.sqrt(1.0 / (len(gains) / _spread(gains) + 1.0 / skip_selftest**2))


def _spread(gains: Sequence[float]) -> float:
    """Variance of gains from pair to pair, not below what is usual."""
    return max(MIN_STD_DB**2, variance(gains) if len(gains) > 2 else 4.0 * MIN_STD_DB**2)


def beats_baseline(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether it did better than the reference on the whole or on most cases: of eight gains one may be of ten dB."""
    return mean_psnr(losses) > mean_psnr(reference) or median(gains_of(losses, reference)) > 0.0


def significantly_worse(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether it did clearly worse than the reference: by more than twice the standard error of the mean gain."""
    gains = gains_of(losses, reference)
    return fmean(gains) < -2.0 * math.sqrt(_spread(gains) / len(gains))
