"""Distances of an accelerated clip to the dense one, on latents, on pictures and over time.

Import after the host has been started.
"""

from __future__ import annotations

import math

from torch import Tensor

from astraea.engine.metrics import psnr, ssim, value_range
from astraea.tiny.codec import decode

METRICS = ("psnr", "ssim", "temporal_psnr")
MAX_PSNR = 200.0  # dB, for equal clips


def compare(own: Tensor, dense: Tensor) -> dict[str, float]:
    """Each of METRICS, higher is closer, for latents `[1, 16, T, H, W]`.

    psnr and ssim: on latents, peak = range of the dense ones. temporal_psnr: on decoded RGB, peak 1, of the differences
    between neighbouring frames, where flicker shows and a constant error does not.
    """
    if not math.isfinite(float(own.sum())):
        raise ValueError("the latents are not finite")
    peak = value_range(dense)
    pictures, wanted = decode(own.float())[0], decode(dense.float())[0]
    found = {
        "psnr": psnr(own, dense, peak),
        "ssim": ssim(own[0].transpose(0, 1), dense[0].transpose(0, 1), peak),
        "temporal_psnr": psnr(pictures.diff(dim=0), wanted.diff(dim=0), 1.0),
    }
    return {name: min(MAX_PSNR, value) for name, value in found.items()}
