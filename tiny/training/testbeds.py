"""The testbeds: a kind of clips, the model trained on it, and the prompts for measurements of quality.

*easy*: a large shape over a smooth ground. *hard*: several small fast shapes over textures, occlusion, sudden changes.
*real*: windows over short real films. These models are for measurements only; the demo model, which ships, is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..codec import CHANNELS, encode
from ..words import TOKENS, context_for
from .clips import DrawPair, draw_batch, draw_pair
from .hard_clips import draw_hard_pair
from .real_clips import draw_real_pair

TINY = Path(__file__).resolve().parents[1]
FRAMES = 6  # of the latents


@dataclass(frozen=True)
class Testbed:
    """A testbed. size: latent height and width; batch: clips of a training step; words: minimum length of a context."""

    name: str
    draw: DrawPair
    checkpoint: Path
    curve: Path
    sheet: Path
    size: int
    batch: int
    words: int
    prompts: tuple[str, ...]

    def draw_latents(self, seed: int, count: int) -> tuple[Tensor, list[str]]:
        """Draw latents `[count, 16, T, H, W]` and captions of clips for training from a seed."""
        clips, captions = draw_batch(seed, count, FRAMES, 2 * self.size, 2 * self.size, self.draw)
        return encode(clips), captions

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        return (1, CHANNELS, FRAMES, self.size, self.size)

    @property
    def tokens(self) -> int:
        return FRAMES * (self.size // 2) ** 2

    def student(self, name: str) -> Path:
        """Return the LoRA file of a student of this testbed's model (`training.distil`)."""
        return TINY / "students" / f"{self.name}_{name}.safetensors"

    def context(self, prompt: str) -> Tensor:
        """Return the context `[L, 4096]` of a prompt, as long as in training."""
        return context_for(prompt, self.words)

    def noise(self, seed: int) -> Tensor:
        """Return the noise of a seed, of the latents' shape."""
        return torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed))


EASY = Testbed(
    name="easy",
    draw=draw_pair,
    checkpoint=TINY / "astraea_tiny_wan_fp16.safetensors",
    curve=TINY / "loss.csv",
    sheet=TINY / "contact_sheet.png",
    size=16,
    batch=8,
    words=TOKENS,
    prompts=(
        "a big red circle moving right over a blue ground",
        "a small yellow square moving up over a purple ground",
        "a big green triangle spinning over a white ground",
        "a small white ring moving left over a black ground",
        "a big cyan ring moving down over an orange ground",
        "a small orange triangle moving down over a green ground",
        "a big purple square standing over a yellow ground",
        "a small black circle moving right over a red ground",
    ),
)
HARD = Testbed(
    name="hard",
    draw=draw_hard_pair,
    checkpoint=TINY / "astraea_tiny_wan_hard_fp16.safetensors",
    curve=TINY / "loss_hard.csv",
    sheet=TINY / "contact_sheet_hard.png",
    size=32,
    batch=4,
    words=2 * TOKENS,
    prompts=(
        "a red circle moving right and a white square moving left over a checked blue ground standing",
        "a yellow ring moving up and a cyan triangle moving right and a red square moving down over a striped purple "
        "ground panning left",
        "a green square moving down and a white circle moving left behind a red pillar over a speckled orange ground "
        "standing",
        "a blue circle moving left appearing and a black square moving up over a dotted yellow ground standing",
        "an orange triangle moving right vanishing and a cyan ring moving down over a checked green ground panning up",
        "a white square moving right and a red ring standing over a striped black ground standing then bright",
        "a purple circle moving up and a yellow square moving right behind a blue pillar over a speckled white ground "
        "panning right then dark",
        "a black triangle moving left and a green circle moving right and an orange ring moving up over a dotted cyan "
        "ground panning down",
    ),
)
REAL = Testbed(
    name="real",
    draw=draw_real_pair,
    checkpoint=TINY / "astraea_tiny_wan_real_fp16.safetensors",
    curve=TINY / "loss_real.csv",
    sheet=TINY / "contact_sheet_real.png",
    size=32,
    batch=4,
    words=2 * TOKENS,
    prompts=(
        "a rabbit far upper middle playing fast forward standing",
        "a driver near upper middle playing fast forward panning left gently",
        "a taxi far lower middle playing fast forward standing",
        "a street far lower left playing slow forward panning left quickly",
        "a bus near lower left playing fast forward standing",
        "a bicycle far upper middle playing slow backward panning up gently",
        "a rabbit near lower right playing slow forward panning right quickly",
        "a driver far lower left playing slow forward panning down gently mirrored",
    ),
)
TESTBEDS = {testbed.name: testbed for testbed in (EASY, HARD, REAL)}
