"""Latents of the host: converted into the model's space, and shown as small RGB previews."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

# By channel count; 16 channels are Wan 2.1's here, other models share the number but not the meaning.
FORMATS = {16: "Wan21", 48: "Wan22", 128: "LTXV"}


def latent_format(channels: int) -> Any | None:
    """Return the host's format for video latents with so many channels, or None."""
    kind = getattr(comfy.latent_formats, FORMATS.get(channels, ""), None)
    return kind() if kind is not None else None


def model_space(samples: Tensor) -> Tensor:
    """Convert samples `[B, 16, T, H, W]` of a LATENT into the normalised space of Wan 2.1 models."""
    return comfy.latent_formats.Wan21().process_in(samples)


def preview_rgb(samples: Tensor) -> Tensor:
    """Show a LATENT's samples `[B, C, (T,) H, W]` as small frames `[B·T, H, W, 3]` in 0…1.

    By the host's linear preview where the format is known, else by the channels' mean in grey.
    """
    video = samples.float() if samples.ndim == 5 else samples.float().unsqueeze(2)
    frames = video.permute(0, 2, 3, 4, 1).flatten(0, 1)
    known = latent_format(video.shape[1])
    factors = getattr(known, "latent_rgb_factors", None)
    if known is None or factors is None:
        grey = frames.mean(-1, keepdim=True)
        low, high = grey.aminmax()
        return ((grey - low) / (high - low).clamp_min(1e-6)).expand(-1, -1, -1, 3)
    frames = known.process_in(video).permute(0, 2, 3, 4, 1).flatten(0, 1)
    bias = getattr(known, "latent_rgb_factors_bias", None) or (0.0, 0.0, 0.0)
    rgb = frames @ torch.tensor(factors).to(frames) + torch.tensor(bias).to(frames)
    return (rgb / 2 + 0.5).clamp(0, 1)
