"""The demo model that ships with the pack: its files and the shape of its clips."""

from __future__ import annotations

from pathlib import Path

from .demo_model.decoder import CHANNELS

CHECKPOINT = Path(__file__).parent / "demo_model" / "astraea_demo_wan_fp16.safetensors"
FRAMES, HEIGHT, WIDTH = 7, 14, 24  # of its latents
LATENT_SHAPE = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
