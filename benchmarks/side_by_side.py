"""The README's picture: the demo model's clip, in full and accelerated, side by side, with the seconds of both.

python benchmarks/side_by_side.py [--comfyui TREE] [--pairs 3] [--prompt WORDS] [--seed 1] [--steps 20] [--budget 0.5]

Seconds are those of the sampler: the median of runs that take turns, after one of each to warm up.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from lib.host import process
from lib.host.demo_clips import accelerated, frames_of
from lib.host.environment import environment
from lib.host.harness import Job, load_tiny, sample
from lib.results import RESULTS, ROOT, write_json

PICTURE = ROOT / "docs" / "pictures" / "side_by_side.webp"
GAP, BAND, FRAME_MILLISECONDS = 8, 34, 83


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompt", default="a white boat sailing right on a lake at night under northern lights")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=2.5)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.set_defaults(seed=1)
    return parser.parse_args()


def draw(clips: list[tuple[str, Any]]) -> list[Any]:
    """Draw the clips side by side, each under its caption: a picture per frame."""
    from PIL import Image, ImageDraw, ImageFont

    count, height, width, _ = clips[0][1].shape
    pictures = []
    for number in range(count):
        sheet = Image.new("RGB", (2 * width + GAP, height + BAND), (24, 26, 31))
        writing = ImageDraw.Draw(sheet)
        for place, (caption, clip) in enumerate(clips):
            left = place * (width + GAP)
            sheet.paste(Image.fromarray(clip[number]), (left, BAND))
            writing.text((left + 6, BAND / 2), caption, (236, 238, 242), ImageFont.load_default(20), anchor="lm")
        pictures.append(sheet)
    return pictures


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    from astraea.engine.metrics import psnr, value_range
    from astraea.tiny.shipped import CHECKPOINT, LATENT_SHAPE
    from astraea.tiny.words import context_for

    model = load_tiny(CHECKPOINT)
    positive, negative = (context_for(text)[None] for text in (args.prompt, ""))
    job = Job(LATENT_SHAPE, positive, negative, args.seed, args.steps, args.cfg)
    fast, handle = accelerated(model, args.budget)
    seconds: dict[str, list[float]] = {"original": [], "accelerated": []}
    clips: dict[str, Any] = {}
    for pair in range(args.pairs + 1):  # the first pair warms up
        for name, sampled in (("original", model), ("accelerated", fast)):
            latents, spent = sample(sampled, job)
            clips.setdefault(name, latents)
            if pair:
                seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    names = {"original": "original", "accelerated": "with Astraea"}
    pictures = draw([(f"{names[name]}, {medians[name]:.1f} s", frames_of(clips[name])) for name in clips])
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": FRAME_MILLISECONDS, "loop": 0, "quality": 82, "method": 6}
    pictures[0].save(PICTURE, save_all=True, append_images=pictures[1:], **options)
    decibels = psnr(clips["accelerated"], clips["original"], value_range(clips["original"]))
    report = handle.last
    result = {
        "benchmark": "side_by_side",
        "environment": environment(host, args, "cpu"),
        "prompt": args.prompt,
        "steps": args.steps,
        "computed": report.steps_computed,
        "psnr": round(decibels, 2),
        "seconds": {name: [round(each, 3) for each in values] for name, values in seconds.items()},
        "median": {name: round(value, 3) for name, value in medians.items()},
    }
    write_json(RESULTS / f"side_by_side-{host.version}.json", result)
    print(result["median"], f"{decibels:.1f} dB", PICTURE, f"{PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
