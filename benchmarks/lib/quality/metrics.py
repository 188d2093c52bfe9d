"""Distances of an accelerated clip to the dense one, on latents, on pictures and over time.

Import after the host has been started.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from torch import Tensor

from astraea.engine.metrics import psnr, ssim, value_range
from astraea.engine.planning.cost import BlockCost
from astraea.tiny.codec import decode

# Wan 2.1 at 480p, 81 frames
SIZES = {
    "1.3B": BlockCost.of(tokens=32_760, dim=1536, feed_forward=8960),
    "14B": BlockCost.of(tokens=32_760, dim=5120, feed_forward=13_824),
}
METRICS = ("psnr", "ssim", "psnr_rgb", "ssim_rgb", "temporal_psnr")
MAX_PSNR = 200.0  # dB, for equal clips


def compare(own: Tensor, dense: Tensor) -> dict[str, float]:
    """Each of METRICS, higher is closer, for latents `[1, 16, T, H, W]`.

    psnr and ssim: on latents, peak = range of the dense ones. The others on decoded RGB, peak 1; temporal_psnr on the
    differences between neighbouring frames, where flicker shows and a constant error does not.
    """
    if not math.isfinite(float(own.sum())):
        raise ValueError("the latents are not finite")
    peak = value_range(dense)
    pictures, wanted = decode(own.float())[0], decode(dense.float())[0]
    found = {
        "psnr": psnr(own, dense, peak),
        "ssim": ssim(own[0].transpose(0, 1), dense[0].transpose(0, 1), peak),
        "psnr_rgb": psnr(pictures, wanted, 1.0),
        "ssim_rgb": ssim(pictures, wanted, 1.0),
        "temporal_psnr": psnr(pictures.diff(dim=0), wanted.diff(dim=0), 1.0),
    }
    return {name: min(MAX_PSNR, value) for name, value in found.items()}


def costs(report: Any) -> dict[str, float]:
    """Cost of a run as a share of the dense one, by the cost model at the size of each real model."""
    if not report.calls:  # a step cache: whole calls
        return dict.fromkeys(SIZES, report.computed_share)
    shares = [call.computed / call.tokens for call in report.calls]
    return {name: statistics.fmean(size.relative_cost(share) for share in shares) for name, size in SIZES.items()}
