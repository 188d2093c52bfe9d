"""The pictures of the workflows in ComfyUI's template browser: `python benchmarks/thumbnails.py [--comfyui TREE]`.

The demo model makes a clip with the sampling of each workflow, in full and accelerated; a picture has the left half of
one frame from the original and its right half from the accelerated clip, and below what was computed. The upper left
corner stays free: the template browser puts a badge there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from lib.host import process
from lib.host.demo_clips import accelerated, frames_of
from lib.host.harness import Job, load_tiny, sample
from lib.results import ROOT

SIDE, BAND = 600, 96  # pixels of a picture, and of the band below
CFG = 2.5
SEEN = "picture: the demo model"


@dataclass(frozen=True)
class Thumbnail:
    """A picture. prompt: number of the demo model's prompts; frame: which one; density: of sparse attention, or 0."""

    workflow: str
    prompt: int
    steps: int
    budget: float
    title: str
    sampler: str = "euler"
    density: float = 0.0
    frame: int = 12
    seed: int = 1


LISTED = (
    Thumbnail("01 Quick start (no download)", 0, 20, 0.5, "no download, any computer"),
    Thumbnail("02 MiniMax-H3 text to video", 4, 20, 0.5, "MiniMax-H3", "res_multistep"),
    Thumbnail("03 LTX-2.3 text to video with sound", 2, 8, 0.65, "LTX-2.3, first pass"),
    Thumbnail("04 Wan 2.2 14B text to video", 3, 20, 0.5, "Wan 2.2 14B"),
    Thumbnail("05 Wan 2.1 1.3B text to video", 7, 30, 0.7, "Wan 2.1 1.3B", "uni_pc"),
    Thumbnail("06 Wan 2.1 14B image to video", 5, 20, 0.7, "Wan 2.1, your picture", "uni_pc"),
    Thumbnail("07 HunyuanVideo 1.5 text to video", 6, 20, 0.7, "HunyuanVideo 1.5"),
    Thumbnail("08 Sparse attention, LTX-2.3 in 8 steps", 3, 8, 1.0, "LTX-2.3, 8 steps", density=0.3),
    Thumbnail("09 Sparse attention, Wan 2.2 in 4 steps", 0, 4, 1.0, "Wan 2.2, 4 steps", density=0.3, seed=5),
    Thumbnail("10 Search (no download)", 2, 20, 0.4, "find your own schedule", seed=6),
    Thumbnail("11 Search for Wan 2.1", 1, 20, 0.4, "search for Wan 2.1", "uni_pc", seed=2),
    Thumbnail("12 Wan 2.2 14B on two GPUs", 4, 20, 0.5, "Wan 2.2 14B, two GPUs", seed=3),
)


def attended_sparsely(model: Any, density: float) -> tuple[Any, Any]:
    """The MODEL that Astraea Sparse Attention gives, and the handle of its reports."""
    from astraea.engine.report import ReportHandle
    from astraea.engine.sparse.plan import SparsePlan
    from astraea.host.sampling.sparse import attend_sparsely

    handle = ReportHandle()
    return attend_sparsely(model, SparsePlan(density=density, min_tokens=0, kernel="own"), handle), handle


def split_frame(original: Any, fast: Any) -> Any:
    """The frame above the band: its left half from the original, its right half from the accelerated clip."""
    from PIL import Image

    height, width, _ = original.shape
    joined = original.copy()
    joined[:, width // 2 :] = fast[:, width // 2 :]
    shown = round(height * SIDE / (SIDE - BAND))
    left = (width - shown) // 2
    frame = Image.fromarray(joined[:, left : left + shown])
    picture = Image.new("RGB", (SIDE, SIDE))
    picture.paste(frame.resize((SIDE, SIDE - BAND), Image.Resampling.LANCZOS))
    return picture


def draw(picture: Any, title: str, gain: str) -> Any:
    """Draw the halves' names, the line between them and the band with the gain."""
    from PIL import ImageDraw, ImageFont

    writing = ImageDraw.Draw(picture, "RGBA")
    writing.line((SIDE / 2, 0, SIDE / 2, SIDE - BAND), (255, 255, 255, 190), 3)
    for x, anchor, words in ((SIDE / 2 - 14, "rs", "original"), (SIDE / 2 + 14, "ls", "Astraea")):
        face = ImageFont.load_default(28)
        writing.text((x, 112), words, "white", face, anchor, stroke_width=2, stroke_fill=(20, 22, 27))
    writing.rectangle((0, SIDE - BAND, SIDE, SIDE), (20, 22, 27, 255))
    writing.text((20, SIDE - BAND / 2), gain, (84, 196, 214), ImageFont.load_default(46), "lm")
    face = ImageFont.load_default(25)
    writing.text((SIDE - 20, SIDE - 0.64 * BAND), title, (236, 238, 242), face, "rm")
    writing.text((SIDE - 20, SIDE - 0.26 * BAND), SEEN, (150, 155, 165), ImageFont.load_default(18), "rm")
    return picture


def gain_of(each: Thumbnail, report: Any) -> str:
    """The words of the gain: what the steps or the density allow."""
    if each.density:
        return f"{each.density:.0%} attention"
    return f"up to {each.steps / report.steps_computed:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--only", default="", help="beginning of a workflow's name")
    args = parser.parse_args()
    process.start(args, cpu=True)
    from astraea.tiny.demo_model.words import PROMPTS
    from astraea.tiny.shipped import CHECKPOINT, LATENT_SHAPE
    from astraea.tiny.words import context_for

    model = load_tiny(CHECKPOINT)
    for each in (each for each in LISTED if each.workflow.startswith(args.only)):
        positive, negative = (context_for(text)[None] for text in (PROMPTS[each.prompt], ""))
        job = Job(LATENT_SHAPE, positive, negative, each.seed, each.steps, CFG, each.sampler)
        fast, handle = attended_sparsely(model, each.density) if each.density else accelerated(model, each.budget)
        original, ours = (frames_of(sample(sampled, job)[0])[each.frame] for sampled in (model, fast))
        picture = draw(split_frame(original, ours), each.title, gain_of(each, handle.last))
        picture.save(ROOT / "workflows" / f"{each.workflow}.jpg", quality=86)
        print(each.workflow, gain_of(each, handle.last), flush=True)


if __name__ == "__main__":
    main()
