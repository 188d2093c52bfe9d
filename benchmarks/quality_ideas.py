"""Ideas for estimating whole steps better at the same cost, as patches of the engine.

Each is measured by the tables `ideas-…` against what is shipped. Import after the host has been started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from quality_variants import Patch, Variant
from torch import Tensor

from astraea.engine import run
from astraea.engine.estimators import correct, forecast

NEIGHBOURHOOD = (3, 3, 3)  # of a latent, in frames, rows and columns
Time = Callable[[float], float]


def root(sigma: float) -> float:
    return math.sqrt(max(0.0, 1.0 - sigma))


def log_snr(sigma: float) -> float:
    return math.log((1.0 - min(sigma, 0.9995)) / sigma)


def angle(sigma: float) -> float:
    return math.atan2(sigma, 1.0 - sigma)


def reach_in(time: Time) -> tuple[Patch, Patch]:
    """Forecasts go on linearly in another variable than sigma."""

    def reach(sigma: float, newest: float, older: float) -> float:
        gap = time(newest) - time(older)
        if abs(gap) < 1e-6:
            return 0.0
        return min(forecast.MAX_STEP_RATIO, max(0.0, (time(sigma) - time(newest)) / gap))

    return (forecast, "reach", reach), (correct, "reach", reach)


def interpolation_in(time: Time) -> Patch:
    """What a gap missed is interpolated in another variable than sigma."""
    in_sigma = correct.interpolation_weights

    def weights(sigma: float, levels: Sequence[float], curvature: float) -> list[float]:
        return in_sigma(time(sigma), [time(level) for level in levels], curvature)

    return (correct, "interpolation_weights", weights)


def _local_add(
    trial: forecast.ExtrapolationGain, history: Sequence[tuple[float, Tensor]], sigma: float, denoised: Tensor
) -> None:
    if len(history) < 2 or abs(history[0][0] - sigma) < 1e-6:
        return
    (newest, last), (older, before) = history[:2]
    ahead = (last - before).float() * forecast.reach(sigma, newest, older)
    came = (ahead * (denoised - last)).sum(1, keepdim=True), ahead.square().sum(1, keepdim=True)
    sums = torch.stack([part.sum(0, keepdim=True) for part in came])
    if trial._sums is not None and sigma == trial._sigma:
        sums = sums + trial._sums
    trial._sigma, trial._sums = sigma, sums


def _local_damping(trial: forecast.ExtrapolationGain, like: Tensor, ahead: float = 1.0) -> float | Tensor:
    """A damping for each place from its neighbourhood, drawn to that of the whole clip where little changed."""
    if trial._sums is None:
        return SHIPPED_DAMPING(trial, like, ahead)
    came, size = trial._sums
    whole = came.sum() / size.sum().clamp_min(1e-12)
    pads = [width // 2 for width in NEIGHBOURHOOD]
    around = [F.avg_pool3d(part, NEIGHBOURHOOD, 1, pads, count_include_pad=False) for part in (came, size)]
    steady = size.mean()
    ratio = (around[0] + steady * whole) / (around[1] + steady).clamp_min(1e-12)
    damping = ((forecast.PRIOR_GAIN + ratio) / 2).clamp(forecast.MIN_GAIN, forecast.MAX_GAIN)
    return 1.0 - (1.0 - damping.to(like.device, like.dtype)) * min(1.0, ahead)


def expecting(share: float) -> Patch:
    """Before a run has shown how much of a forecast comes true, and as half of the mean later."""
    return (run.Run, "_new_trial", lambda current: forecast.ExtrapolationGain(share, current.curves.extrapolation_axis))


def _alike_at_every_reach(trial: forecast.ExtrapolationGain, like: Tensor, ahead: float = 1.0) -> float | Tensor:
    return SHIPPED_DAMPING(trial, like)


SHIPPED_DAMPING = forecast.ExtrapolationGain.damping
ALIKE = (forecast.ExtrapolationGain, "damping", _alike_at_every_reach)
LOCAL = ((forecast.ExtrapolationGain, "add", _local_add), (forecast.ExtrapolationGain, "damping", _local_damping))
ROOT = (*reach_in(root), interpolation_in(root))
LOG_SNR = (*reach_in(log_snr), interpolation_in(log_snr))

IDEAS = (
    Variant("time: root of 1 − σ", ROOT),
    Variant("time: root of 1 − σ, interpolation only", (interpolation_in(root),)),
    Variant("time: log-SNR", LOG_SNR),
    Variant("time: angle", (*reach_in(angle), interpolation_in(angle))),
    Variant("damping: by place", LOCAL),
    Variant("damping: alike at every reach", (ALIKE,)),
    Variant("damping: alike at every reach, around 0.25", (ALIKE, expecting(0.25))),
    Variant("damping: around 0.25", (expecting(0.25),)),
    Variant("damping: around 0.25, time: log-SNR", (expecting(0.25), *LOG_SNR)),
)
