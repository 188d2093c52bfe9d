"""Measures which words the easy testbed's model distinguishes: `python -m tiny.training.vocabulary_check`; torch alone.

Clips that were not trained on are denoised under their caption, and again, with the same noise, under the caption with
words of a sort exchanged. Prints, for each sort and noise level, the share of clips to which the true caption came
closer (0.5 by chance), and writes them as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo import load_pack, part
from .testbeds import EASY

TINY = Path(__file__).resolve().parents[1]
SEED = 555_555_555
SIGMAS = (0.99, 0.95, 0.9)
FRAMES, SIZE = 6, 32
EXCHANGED = {
    "left and right": {"left": "right", "right": "left"},
    "up and down": {"up": "down", "down": "up"},
    "across and along": {"left": "up", "right": "down", "up": "left", "down": "right"},
    "kinds of shapes": {"circle": "square", "square": "ring", "ring": "triangle", "triangle": "circle"},
    "sizes": {"small": "big", "big": "small"},
    "colours": {
        "red": "cyan", "cyan": "red", "green": "purple", "purple": "green", "blue": "yellow", "yellow": "orange",
        "orange": "blue", "white": "black", "black": "white",
    },
}  # fmt: skip


def exchange(caption: str, words: dict[str, str]) -> str:
    return " ".join(words.get(word, word) for word in caption.split())


def clips_with(words: dict[str, str], count: int) -> tuple[Tensor, list[str]]:
    """Draw clips of different scenes whose captions have any of the words: latents `[count, 16, T, H, W]`, captions."""
    clips, encode = part("tiny.training.clips"), part("tiny.codec").encode
    found: list[tuple[Tensor, str]] = []
    seeds = itertools.count(SEED)
    while len(found) < count:
        seed = next(seeds)
        drawn, captions = clips.draw_batch(seed, 2, FRAMES, SIZE, SIZE)
        number = seed % 2  # the first or the second clip of the pair
        if exchange(captions[number], words) != captions[number]:
            found.append((drawn[number], captions[number]))
    return encode(torch.stack([clip for clip, _ in found])), [caption for _, caption in found]


@torch.inference_mode()
def measure_share(model: Any, words: dict[str, str], sigma: float, count: int) -> float:
    """Return the share of `count` clips to which the true caption comes closer than the changed caption."""
    context_for = part("tiny.words").context_for
    latents, captions = clips_with(words, count)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
    noisy, times = (1 - sigma) * latents + sigma * noise, torch.full((count,), 1000 * sigma)
    errors = []
    for texts in (captions, [exchange(caption, words) for caption in captions]):
        flow = model(noisy, times, torch.stack([context_for(text) for text in texts]))
        errors.append((noisy - sigma * flow - latents).square().flatten(1).mean(1))
    return (errors[0] < errors[1]).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64, help="clips for each sort of words (default 64)")
    parser.add_argument("--model", type=Path, default=EASY.checkpoint)
    parser.add_argument("--output", type=Path, default=TINY / "vocabulary_check.json")
    args = parser.parse_args()
    load_pack()
    model = part("tiny.standalone").load_tiny(args.model)
    shares = {}
    for sort, words in EXCHANGED.items():
        shares[sort] = {str(sigma): measure_share(model, words, sigma, args.clips) for sigma in SIGMAS}
        print(f"{sort:18}", *(f"sigma {sigma}: {share:.2f}" for sigma, share in shares[sort].items()), flush=True)
    result = {
        "clips": args.clips,
        "command": "python -m tiny.training.vocabulary_check",
        "share recognised, by noise level": shares,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
