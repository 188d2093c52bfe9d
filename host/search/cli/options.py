"""The options of the search's command line, checked as far as that needs no ComfyUI. Standard library only."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ....errors import AstraeaError, SearchError
from ....search.budgets import check_search_name, parse_budgets

TINY = "tiny"  # the name of the embedded model
REFUSED = 2
EPILOG = "Flags of ComfyUI follow after --, for example: python search --model wan.safetensors ... -- --lowvram"


@dataclass(frozen=True)
class Options:
    """As in `--help`. latent: `(C, T, H, W)`; prompts: those of --prompt, then those of the file."""

    comfyui: str | None
    model: str
    clip: str | None
    clip_type: str
    loras: tuple[tuple[str, float], ...]
    shift: float | None
    prompts: tuple[str, ...]
    negative: str
    width: int | None
    height: int | None
    frames: int | None
    latent: tuple[int, int, int, int] | None
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    budgets: tuple[float, ...]
    effort: float
    cases: int
    seed: int
    floor: float | None
    small_clips: bool
    name: str
    out: Path | None
    memo: Path | None
    workers: int
    address: str | None

    @property
    def tiny(self) -> bool:
        return self.model == TINY


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        print(f"Astraea search: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(REFUSED)


def parse(arguments: Sequence[str]) -> Options:
    """The options; what cannot work is said in one line and exits with status 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.prompts = (*given.prompts, *_lines_of(given.file))
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"the prompts in '{given.file}' cannot be read ({getattr(error, 'strerror', None) or error})")
    del given.file
    given.cfg = given.cfg if given.cfg is not None else (3.0 if given.model == TINY else 6.0)
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(given).items()}
    options = Options(**values)
    why_not = _why_not(options)
    if why_not:
        parser.error(why_not)
    return options


def _why_not(options: Options) -> str | None:
    """What does not go together, or None."""
    sizes = (options.width, options.height, options.frames)
    if not options.tiny and not options.clip:
        return "a model needs its text encoder: name it with --clip"
    if not options.tiny and not options.prompts:
        return "there is no prompt: give some with --prompt or --prompts"
    if options.tiny and (options.clip or options.loras):
        return "the embedded model takes neither --clip nor --lora: name another one with --model"
    if options.latent and any(sizes):
        return "--latent and --width, --height, --frames both say how large the video is: leave one out"
    if not options.tiny and not options.latent and not all(sizes):
        return "how large is the video? Give --width, --height and --frames, or --latent"
    if options.address and not options.workers:
        return "--address is of a Ray to spread over: say with --workers over how many"
    return None


def _lines_of(file: Path | None) -> tuple[str, ...]:
    lines = file.read_text("utf-8").splitlines() if file is not None else []
    return tuple(line.strip() for line in lines if line.strip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python search",
        epilog=EPILOG,
        description="Finds schedules for a model and a way of sampling, and saves them for Astraea Accelerate. Begin "
        "again with the same command after an interrupt: nothing is measured twice.",
    )
    group = parser.add_argument_group("what is sampled")
    add = group.add_argument
    add("--comfyui", metavar="TREE", help="ComfyUI's folder (default: COMFYUI_DIR, or the one the pack lies in)")
    add("--model", default=TINY, help="a file in ComfyUI's diffusion_models, or a path (default: the embedded model)")
    add("--clip", metavar="NAME", help="text encoder: a file in ComfyUI's text_encoders, or a path")
    add("--clip-type", default="wan", help="its kind, as in ComfyUI's Load CLIP (default wan)")
    add("--lora", dest="loras", metavar="NAME:STRENGTH", type=_lora, action="append", default=[], help="repeatable")
    add("--shift", type=_above_zero, help="as ComfyUI's ModelSamplingSD3 sets it (default: the model's own)")
    add("--prompt", dest="prompts", metavar="TEXT", action="append", default=[], help="repeatable")
    add("--prompts", dest="file", metavar="FILE", type=Path, help="a prompt a line")
    add("--negative", metavar="TEXT", default="")
    add("--width", type=_count, help="of the video, in pixels")
    add("--height", type=_count)
    add("--frames", type=_count)
    add("--latent", nargs=4, type=_count, metavar=("C", "T", "H", "W"), help="instead: the shape of its latents")
    add("--steps", type=_steps, default=30)
    add("--cfg", type=_not_negative, help="default 6; 3 for the embedded model")
    add("--sampler", default="euler")
    add("--scheduler", default="simple")
    group = parser.add_argument_group("the search")
    add = group.add_argument
    add("--budgets", type=_budgets, default=(0.5, 0.4, 0.3), help="shares of the model's work to do: 0.5,0.4,0.3")
    add("--effort", type=_above_zero, default=30.0, help="what it may spend, in dense runs (default 30)")
    add("--cases", type=_count, default=4, help="clips that are kept close to: prompts in turn, each with a new seed")
    add("--seed", type=_seed, default=0, help="of the first clip, and of the search's own choices")
    add("--floor", type=_share, help="what a step in part takes of a full one, however little (default: measured)")
    add(
        "--small-clips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to find out on small clips first which steps to compute, where the model makes videos from text",
    )
    add("--name", type=_name, default="searched", help="schedules are saved as NAME-0.50 and so on")
    add("--out", type=Path, metavar="FOLDER", help="for the schedules (default: where Astraea's nodes look for them)")
    add("--memo", type=Path, metavar="FOLDER", help="for what has been measured (default: where the node keeps it)")
    group = parser.add_argument_group("spread over several GPUs or machines by Ray")
    add = group.add_argument
    add("--workers", type=_count, default=0, metavar="N", help="processes to run candidates in, one a GPU")
    add("--address", help="of a running Ray (default: one is started on this machine)")
    return parser


def _number(text: str, what: str, least: float, *, above: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < least or (above and number == least):
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
    return number


def _whole(text: str, what: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
    return int(text)


def _above_zero(text: str) -> float:
    return _number(text, "a number above 0", 0.0, above=True)


def _share(text: str) -> float:
    share = _number(text, "a share of 0 to 1", 0.0)
    if share > 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share of 0 to 1")
    return share


def _not_negative(text: str) -> float:
    return _number(text, "a number of 0 or more", 0.0)


def _count(text: str) -> int:
    return _whole(text, "a whole number of 1 or more", 1)


def _steps(text: str) -> int:
    return _whole(text, "a whole number of 2 or more", 2)


def _seed(text: str) -> int:
    seed = _whole(text, "a whole number of 0 or more", 0)
    if seed >= 2**64:
        raise argparse.ArgumentTypeError(f"'{text}' is too large for a seed")
    return seed


def _budgets(text: str) -> tuple[float, ...]:
    try:
        return parse_budgets(text)
    except SearchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _lora(text: str) -> tuple[str, float]:
    name, colon, strength = text.rpartition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME:STRENGTH, such as style.safetensors:0.8")
    return name, _number(strength, "a strength", -math.inf)


def _name(text: str) -> str:
    try:
        return check_search_name(text)
    except AstraeaError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
