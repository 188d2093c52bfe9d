"""The clips that the demo model is trained on: latents that `training.autoencoder` has encoded, with their captions."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..shipped import CHECKPOINT, LATENT_SHAPE
from ..words import TOKENS, context_for

TINY = Path(__file__).resolve().parents[1]
LATENTS = TINY / ".training" / "demo_latents.safetensors"
# Pairs that are kept for validation, whose seeds are at least VALIDATION_SEED.
HELD_OUT, VALIDATION_SEED = 32, 900_000_000


class DemoClips:
    """Stands beside the testbeds where the demo model is trained."""

    name, batch, words = "demo", 8, TOKENS
    checkpoint, curve = CHECKPOINT, TINY / "demo_model" / "loss.csv"

    def draw_latents(self, seed: int, count: int) -> tuple[Tensor, list[str]]:
        """Draw pairs of a clip and its mirror image: latents `[count, 16, T, H, W]` and captions, from a seed."""
        latents, captions = load_latents()
        pairs = len(captions) // 2
        first, end = (pairs - HELD_OUT, pairs) if seed >= VALIDATION_SEED else (0, pairs - HELD_OUT)
        rng = random.Random(seed)
        rows = [2 * rng.randrange(first, end) + side for _ in range(count // 2) for side in (0, 1)]
        return latents[rows].float(), [captions[row] for row in rows]

    def context(self, prompt: str) -> Tensor:
        """Return the context `[L, 4096]` of a prompt, as long as in training."""
        return context_for(prompt, self.words)

    def noise(self, seed: int) -> Tensor:
        """Return the noise of a seed, of the latents' shape."""
        return torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=1)
def load_latents() -> tuple[Tensor, list[str]]:
    """Load the latents `[N, 16, T, H, W]` in fp16 and the captions, a scene and its mirror image in turn."""
    if not LATENTS.exists():
        raise SystemExit("There are no latents to train on: first run `python -m tiny.training.autoencoder`.")
    with safe_open(LATENTS, "pt") as file:
        return file.get_tensor("latents"), file.metadata()["captions"].splitlines()


DEMO = DemoClips()
