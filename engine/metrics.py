"""Closeness of two results: PSNR and SSIM, on images or latents, in torch alone.

Both take a peak, the distance between black and white; for latents it is the range of the reference.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
K1, K2 = 0.01, 0.03
FRAMES_AT_ONCE = 8


def value_range(reference: Tensor) -> float:
    """Return the largest minus the smallest value, the peak for latents; 1 where all are equal."""
    low, high = reference.aminmax()
    return float(high - low) or 1.0


def psnr(test: Tensor, reference: Tensor, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB over all elements; infinite when equal."""
    error = float((test.double() - reference.double()).square().mean())
    return 10.0 * math.log10(peak**2 / error) if error > 0.0 else math.inf


def ssim(test: Tensor, reference: Tensor, peak: float) -> float:
    """Return the mean structural similarity of images `[B, C, H, W]`, per channel; small images shrink the window."""
    size = min(WINDOW, test.shape[-2], test.shape[-1])
    size -= 1 - size % 2
    parts = zip(test.split(FRAMES_AT_ONCE), reference.split(FRAMES_AT_ONCE), strict=True)
    sums = [float(_ssim_map(a.double(), b.double(), size, peak).mean()) * len(a) for a, b in parts]
    return sum(sums) / len(test)


def _ssim_map(a: Tensor, b: Tensor, size: int, peak: float) -> Tensor:
    mean_a, mean_b = _blur(a, size), _blur(b, size)
    var_a = _blur(a * a, size) - mean_a**2
    var_b = _blur(b * b, size) - mean_b**2
    covariance = _blur(a * b, size) - mean_a * mean_b
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _blur(x: Tensor, size: int) -> Tensor:
    """Return Gaussian means over windows inside the image."""
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat.view(*x.shape[:2], *flat.shape[-2:])
