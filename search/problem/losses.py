"""Bounds of a loss, and its PSNR. See `problem` for what a loss is."""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_LOSS = 1e-20  # for which a PSNR is stated: 200 dB
MAX_LOSS = 1.0  # counted for a run that is not finite or was aborted
TYPICAL_STD_DB = 3.0  # of a candidate's gain between cases


def psnr_of(loss: float) -> float:
    """Return the PSNR of a loss in dB; losses below MIN_LOSS have that of MIN_LOSS."""
    return -10.0 * math.log10(max(loss, MIN_LOSS))


def mean_psnr(losses: Sequence[float]) -> float:
    """Return the mean PSNR of losses in dB, each loss bounded to [MIN_LOSS, MAX_LOSS]."""
    bounded = [min(MAX_LOSS, max(MIN_LOSS, loss)) for loss in losses]
    return -10.0 * math.fsum(math.log10(loss) for loss in bounded) / len(bounded)
