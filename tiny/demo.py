"""Makes a clip twice, computed in full and accelerated, and prints the speed-up and the difference.

    python tiny/demo.py [--comfyui FOLDER] [--budget 0.5] [--prompt WORDS] [--steps 20] [--seed 1] [--output FOLDER]

With a ComfyUI folder, and that ComfyUI's Python, it samples through ComfyUI; else with torch alone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bootstrap import PACK, is_comfyui, load_pack, start_comfyui  # noqa: E402

sys.path.remove(str(ROOT))

CFG, SHIFT = 2.5, 8.0  # the shift of ComfyUI for Wan 2.1
WARM_UP_STEPS = 4
FRAME_MILLISECONDS = 83


@dataclass(frozen=True)
class Result:
    """A clip: latents in the model's space, the seconds it took, and the report of an accelerated run."""

    latents: Tensor
    seconds: float
    report: Any = None


Sampler = Callable[[int, Any], Result]
"""sampler(steps, plan or None) -> Result, always with the same prompt and noise."""


def parse_arguments() -> argparse.Namespace:
    limits = part("limits")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder; run with that ComfyUI's Python")
    parser.add_argument(
        "--budget", type=float, default=0.5, help=f"share of the model's work to do ({limits.MIN_BUDGET:g} to 1)"
    )
    parser.add_argument("--prompt", default=part("tiny.demo_model.words").PROMPTS[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="folder for the animated picture")
    args = parser.parse_args()
    if not limits.MIN_BUDGET <= args.budget <= 1.0 or not 1 <= args.steps <= limits.MAX_STEPS:
        parser.error(f"--budget goes from {limits.MIN_BUDGET:g} to 1, --steps from 1 to {limits.MAX_STEPS}")
    if args.comfyui and not is_comfyui(args.comfyui):
        parser.error(f"{args.comfyui} is no ComfyUI folder: it has no main.py")
    return args


def part(name: str) -> Any:
    """Import a module of the pack, which is loaded."""
    return importlib.import_module(f"{PACK}.{name}")


def make_noise(seed: int) -> Tensor:
    return torch.randn(part("tiny.shipped").LATENT_SHAPE, generator=torch.Generator().manual_seed(seed))


def torch_sampler(args: argparse.Namespace) -> Sampler:
    """Return a sampler with torch alone."""
    standalone, words, schedules = part("tiny.standalone"), part("tiny.words"), part("schedules")
    model = standalone.load_tiny(part("tiny.shipped").CHECKPOINT)
    positive = words.context_for(args.prompt)
    negative = words.context_for("")[:1].expand(len(positive), -1)

    def sample(steps: int, plan: Any) -> Result:
        sigmas = [*schedules.flow_sigmas(steps, SHIFT), 0.0]
        latents, report, seconds = standalone.sample(
            model, make_noise(args.seed), positive, negative, sigmas, cfg=CFG, plan=plan
        )
        return Result(latents, seconds, report)

    return sample


def comfyui_flags() -> list[str]:
    """Return ComfyUI's flags for this machine."""
    has_device = any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu))
    return ["--use-pytorch-cross-attention", *([] if has_device else ["--cpu"])]


def comfyui_sampler(args: argparse.Namespace) -> Sampler:
    """Return a sampler through ComfyUI, as its KSampler samples."""
    comfy_sd, comfy_sample = importlib.import_module("comfy.sd"), importlib.import_module("comfy.sample")
    accelerate, words = part("host.sampling.patch_model").accelerate, part("tiny.words")
    shipped = part("tiny.shipped")
    handle = part("engine.report").ReportHandle()
    model = comfy_sd.load_diffusion_model(str(shipped.CHECKPOINT))
    conditionings = [[[words.context_for(text)[None], {}]] for text in (args.prompt, "")]

    @torch.inference_mode()
    def sample(steps: int, plan: Any) -> Result:
        used = model if plan is None else accelerate(model, plan, handle)
        began = time.perf_counter()
        samples = comfy_sample.sample(
            used,
            make_noise(args.seed),
            steps,
            CFG,
            "euler",
            "simple",
            *conditionings,
            torch.zeros(shipped.LATENT_SHAPE),
            disable_pbar=True,
            seed=args.seed,
        )
        seconds = time.perf_counter() - began
        latents = part("host.latents").model_space(samples.float()).cpu()
        return Result(latents, seconds, handle.last if plan is not None else None)

    return sample


def print_table(dense: Result, fast: Result, decibels: float) -> None:
    ratio = dense.seconds / fast.seconds
    share = fast.report.computed_share
    print(f"{'':<18}{'dense':>10}{'accelerated':>14}")
    print(f"{'seconds':<18}{dense.seconds:>10.2f}{fast.seconds:>14.2f}   {ratio:.2f}x faster")
    print(f"{'tokens computed':<18}{1:>10.0%}{share:>14.1%}   schedule '{fast.report.schedule}'")
    print(f"{'PSNR':<18}{'':>10}{decibels:>11.1f} dB   against the dense latents")
    for note in fast.report.notes:
        print(f"note: {note}")


def draw_frames(clips: list[tuple[str, Tensor]]) -> list[Image.Image]:
    """Draw clips `[T, 3, H, W]` in 0...1 side by side, each under its caption."""
    count, _, high, wide = clips[0][1].shape
    band = 26
    frames = []
    for number in range(count):
        sheet = Image.new("RGB", (len(clips) * (wide + 8) - 8, high + band), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (caption, clip) in enumerate(clips):
            pixels = (clip[number].permute(1, 2, 0) * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (place * (wide + 8), band))
            draw.text((place * (wide + 8) + 4, 5), caption, "black", caption_font())
        frames.append(sheet)
    return frames


def caption_font() -> Any:
    try:
        return ImageFont.load_default(14)
    except TypeError:  # an old Pillow has its default font in one size only
        return ImageFont.load_default()


def save_animation(frames: list[Image.Image], folder: Path) -> Path:
    """Save an animated WebP, or a GIF where Pillow lacks WebP, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("astraea_demo.webp" if features.check("webp") else "astraea_demo.gif")
    options: dict[str, Any] = {"quality": 90} if path.suffix == ".webp" else {}
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0, optimize=False, **options
    )
    return path


def choose_sampler(args: argparse.Namespace) -> Sampler:
    """Return the sampler that the arguments name, and print which it is."""
    if args.comfyui:
        start_comfyui(args.comfyui.resolve(), comfyui_flags())
        version = importlib.import_module("comfyui_version").__version__
        print(f"Astraea demo through ComfyUI {version} ({args.comfyui})")
        return comfyui_sampler(args)
    print("Astraea demo with torch alone (name a ComfyUI with --comfyui to run it there)")
    return torch_sampler(args)


def run(args: argparse.Namespace) -> None:
    sampler = choose_sampler(args)
    for word in part("tiny.words").unknown_words(args.prompt, part("tiny.demo_model.words").VOCABULARY):
        print(f"note: the demo model was not trained on the word '{word}'")
    print(f"'{args.prompt}', {args.steps} steps, seed {args.seed}, budget {args.budget:g}\n", flush=True)
    plan = part("engine.planning.plan").make_plan(None, budget=args.budget)
    for warm_up in (None, plan):
        sampler(min(WARM_UP_STEPS, args.steps), warm_up)
    dense, fast = sampler(args.steps, None), sampler(args.steps, plan)
    quality, decode = part("engine.metrics"), part("tiny.demo_model.decoder").decode
    decibels = quality.psnr(fast.latents, dense.latents, quality.value_range(dense.latents))
    print_table(dense, fast, decibels)
    ratio = dense.seconds / fast.seconds
    clips = [
        (f"dense, {dense.seconds:.1f} s", decode(dense.latents)[0]),
        (f"accelerated, {fast.seconds:.1f} s ({ratio:.2f}x), {decibels:.1f} dB", decode(fast.latents)[0]),
    ]
    print(f"\n{save_animation(draw_frames(clips), args.output).resolve()}")


def main() -> None:
    load_pack()
    args = parse_arguments()
    try:
        run(args)
    except Exception as error:
        errors = sys.modules.get(f"{PACK}.errors")
        if errors is None or not isinstance(error, errors.AstraeaError):
            raise
        sys.exit(f"Astraea: {error}")


if __name__ == "__main__":
    main()
