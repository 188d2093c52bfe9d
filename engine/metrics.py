"""Closeness of two results: PSNR and SSIM, on images or latents, in torch alone.

Both take a peak, the distance between black and white; for latents it is the range of the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004
K1, K2 = 0.01, 0.03
VALUES_AT_ONCE = 2**22  # whose difference is held in float64


def value_range(reference: Tensor) -> float:
    """Return the largest minus the smallest value, the peak for latents; 1 where all are equal."""
    low, high = reference.aminmax()
    return float(high - low) or 1.0


def mean_squared_error(test: Tensor, reference: Tensor) -> float:
    """Return the mean squared difference over all elements."""
    parts = zip(test.flatten().split(VALUES_AT_ONCE), reference.flatten().split(VALUES_AT_ONCE), strict=True)
    return sum(float((a.double() - b.double()).square().sum()) for a, b in parts) / test.numel()


def decibels(error: float, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error; infinite for 0."""
    return 10.0 * math.log10(peak**2 / error) if error > 0.0 else math.inf


def psnr(test: Tensor, reference: Tensor, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB over all elements; infinite when equal."""
    return decibels(mean_squared_error(test, reference), peak)


def ssim(test: Tensor, reference: Tensor, peak: float) -> float:
    """Return the mean structural similarity of images `[B, C, H, W]`, per channel; small images shrink the window."""
    size = min(WINDOW, test.shape[-2], test.shape[-1])
    size -= 1 - size % 2
    frames = [float(_ssim_map(a.double(), b.double(), size, peak).mean()) for a, b in zip(test, reference, strict=True)]
    return sum(frames) / len(frames)


def _ssim_map(a: Tensor, b: Tensor, size: int, peak: float) -> Tensor:
    mean_a, mean_b = _blur(a, size), _blur(b, size)
    var_a = _blur(a * a, size) - mean_a**2
    var_b = _blur(b * b, size) - mean_b**2
    covariance = _blur(a * b, size) - mean_a * mean_b
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _blur(x: Tensor, size: int) -> Tensor:
    """Return Gaussian means over windows inside the image: sums of shifted images, faster than convolutions."""
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    for dim in (-2, -1):
        length = x.shape[dim] - size + 1
        total = weights[0] * x.narrow(dim, 0, length)
        for start, weight in enumerate(weights[1:].tolist(), 1):
            total.add_(x.narrow(dim, start, length), alpha=weight)
        x = total
    return x
