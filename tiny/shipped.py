"""The embedded model that ships with the pack: its file, the shape of its clips, and prompts in its words."""

from __future__ import annotations

from pathlib import Path

from .codec import CHANNELS

CHECKPOINT = Path(__file__).parent / "astraea_tiny_wan_fp16.safetensors"
FRAMES, SIZE = 6, 16  # of its latents: frames, height and width
LATENT_SHAPE = (1, CHANNELS, FRAMES, SIZE, SIZE)
PROMPTS = (
    "a big red circle moving right over a blue ground",
    "a small yellow square moving up over a purple ground",
    "a big green triangle spinning over a white ground",
    "a small white ring moving left over a black ground",
    "a big cyan ring moving down over an orange ground",
    "a small orange triangle moving down over a green ground",
    "a big purple square standing over a yellow ground",
    "a small black circle moving right over a red ground",
)
