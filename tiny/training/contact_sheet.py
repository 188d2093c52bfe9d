"""Draws the clips of a testbed's prompts: `python -m tiny.training.contact_sheet` in the pack's folder; torch alone.

A row per prompt, a column per frame, nothing is selected: prompt number n has seed n. Writes a PNG next to the model.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ..demo import SHIFT, caption_font, load_pack, part

WIDE, LINE, STEPS, CFG = 128, 18, 30, 3.0  # pixels of a frame's side and of a prompt's line
LETTERS = 100  # of a line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", choices=("easy", "hard", "real"), default="easy")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    load_pack()
    standalone, decode = part("tiny.standalone"), part("tiny.codec").decode
    testbed = part("tiny.training.testbeds").TESTBEDS[args.testbed]
    sigmas = [*part("schedules").flow_sigmas(STEPS, SHIFT), 0.0]
    model = standalone.load_tiny(testbed.checkpoint)
    rows = []
    for seed, prompt in enumerate(testbed.prompts):
        contexts = testbed.context(prompt), testbed.context("")
        latents, _, _ = standalone.sample(model, testbed.noise(seed), *contexts, sigmas, cfg=CFG)
        rows.append(decode(latents)[0])
        print(f"{prompt} (seed {seed})", flush=True)
    draw_sheet(testbed.prompts, rows).save(args.output or testbed.sheet, optimize=True)


def draw_sheet(prompts: Sequence[str], rows: Sequence[torch.Tensor]) -> Image.Image:
    """Draw clips `[T, 3, H, W]` below one another, each under its prompt."""
    titles = [textwrap.fill(prompt, LETTERS) for prompt in prompts]
    frames, band = len(rows[0]), LINE * (1 + max(title.count("\n") for title in titles))
    wide, high = frames * (WIDE + 2), len(rows) * (WIDE + band)
    sheet = Image.new("RGB", (wide, high), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (title, clip) in enumerate(zip(titles, rows, strict=True)):
        top = line * (WIDE + band)
        draw.multiline_text((3, top + 2), title, "black", caption_font(), spacing=2)
        for column, frame in enumerate(clip):
            pixels = (frame.permute(1, 2, 0) * 255).round().byte().numpy()
            picture = Image.fromarray(pixels).resize((WIDE, WIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * (WIDE + 2), top + band))
    return sheet


if __name__ == "__main__":
    main()
