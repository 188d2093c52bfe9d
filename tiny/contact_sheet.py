"""Draws what the embedded model makes of a list of prompts: `python tiny/contact_sheet.py`, torch alone.

One row a prompt, one column a frame, nothing chosen: prompt number n has seed n. Writes tiny/contact_sheet.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from demo import CFG, CHECKPOINT, SHIFT, caption_font, load_pack, noise_for, part
from PIL import Image, ImageDraw

PROMPTS = (
    "a big red circle moving right over a blue ground",
    "a big yellow square moving up over a purple ground",
    "a big green triangle spinning over a white ground",
    "a small white ring moving left over a red ground",
    "a big orange circle moving up over a black ground",
    "a big cyan square standing over a yellow ground",
    "a big purple ring moving down over a green ground",
    "a big blue circle moving left over an orange ground",
    "a small black triangle moving up over a cyan ground",
    "a small red square moving right over a green ground",
)
PIXEL, BAND, STEPS = 4, 18, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "contact_sheet.png")
    args = parser.parse_args()
    load_pack()
    standalone, words, decode = part("tiny.standalone"), part("tiny.words"), part("tiny.codec").decode
    sigmas = [*part("schedules").flow_sigmas(STEPS, SHIFT), 0.0]
    model = standalone.load_tiny(CHECKPOINT)
    rows = []
    for seed, prompt in enumerate(PROMPTS):
        contexts = words.context_for(prompt), words.context_for("")
        latents, _, _ = standalone.sample(model, noise_for(seed), *contexts, sigmas, cfg=CFG)
        rows.append(decode(latents)[0])
        print(f"{prompt} (seed {seed})", flush=True)
    draw_sheet(rows).save(args.output, optimize=True)


def draw_sheet(rows: list[torch.Tensor]) -> Image.Image:
    """Clips `[T, 3, H, W]` below one another, each under its prompt."""
    frames, _, height, width = rows[0].shape
    wide, high = frames * (width * PIXEL + 2), len(rows) * (height * PIXEL + BAND)
    sheet = Image.new("RGB", (wide, high), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (prompt, clip) in enumerate(zip(PROMPTS, rows, strict=True)):
        top = line * (height * PIXEL + BAND)
        draw.text((3, top + 2), prompt, "black", caption_font())
        for column, frame in enumerate(clip):
            pixels = (frame.permute(1, 2, 0) * 255).round().byte().numpy()
            picture = Image.fromarray(pixels).resize((width * PIXEL, height * PIXEL), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * (width * PIXEL + 2), top + BAND))
    return sheet


if __name__ == "__main__":
    main()
