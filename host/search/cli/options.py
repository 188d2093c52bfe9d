"""Options of the command `python search`, checked as far as possible without ComfyUI. Standard library only."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ....errors import AstraeaError
from ....limits import MAX_SEED
from ....search.problem.budgets import check_search_name, parse_budgets
from ....search.problem.config import ASTRAEA, METHOD_DESCRIPTIONS, SearchConfig

TINY = "tiny"  # the name of the embedded model
REFUSED = 2
EPILOG = "Flags of ComfyUI follow after --, for example: python search --model wan.safetensors ... -- --lowvram"


@dataclass(frozen=True)
class CliOptions:
    """Options as in `--help`. latent: `(C, T, H, W)`; prompts: those of --prompt, then those of the file."""

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
    method: str
    partial_step_overhead: float | None
    proxy: bool
    name: str
    out: Path | None
    run_log: Path | None
    workers: int
    address: str | None

    @property
    def is_tiny(self) -> bool:
        """Tell whether the embedded model is searched."""
        return self.model == TINY

    @property
    def config(self) -> SearchConfig:
        return SearchConfig(
            budgets=self.budgets,
            effort=self.effort,
            seed=self.seed,
            method=self.method,
            partial_step_overhead=self.partial_step_overhead,
            use_proxy=self.proxy,
        )


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line."""

    def error(self, message: str) -> NoReturn:
        print(f"Astraea search: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(REFUSED)


def parse(arguments: Sequence[str]) -> CliOptions:
    """Parse the options; an error is printed as one line and exits with status 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.prompts = (*given.prompts, *_read_lines(given.file))
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"the prompts in '{given.file}' cannot be read ({getattr(error, 'strerror', None) or error})")
    del given.file
    given.cfg = given.cfg if given.cfg is not None else (3.0 if given.model == TINY else 6.0)
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(given).items()}
    options = CliOptions(**values)
    conflict = _conflict(options)
    if conflict:
        parser.error(conflict)
    return options


def _conflict(options: CliOptions) -> str | None:
    """Return what is missing or contradictory, or None."""
    sizes = (options.width, options.height, options.frames)
    if not options.is_tiny and not options.clip:
        return "a model needs its text encoder: name it with --clip"
    if not options.is_tiny and not options.prompts:
        return "there is no prompt: give some with --prompt or --prompts"
    if options.is_tiny and (options.clip or options.loras):
        return "the embedded model takes neither --clip nor --lora: name another one with --model"
    if options.latent and any(sizes):
        return "--latent and --width, --height, --frames both say how large the video is: leave one out"
    needs_size = any(sizes) if options.is_tiny else not options.latent
    if needs_size and not all(sizes):
        return "how large is the video? Give --width, --height and --frames, or --latent"
    if options.address and not options.workers:
        return "--address needs --workers: the number of processes to run there"
    return None


def _read_lines(file: Path | None) -> tuple[str, ...]:
    lines = file.read_text("utf-8").splitlines() if file is not None else []
    return tuple(line.strip() for line in lines if line.strip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python search",
        epilog=EPILOG,
        description="Finds schedules for a model and its sampling settings, and saves them for Astraea Accelerate. "
        "After an interrupt, the same command resumes: no finished candidate run is made twice.",
    )
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--comfyui", metavar="TREE", help="ComfyUI's folder (default: COMFYUI_DIR, or the one the pack lies in)")
    add("--model", default=TINY, help="a file in ComfyUI's diffusion_models, or a path (default: the embedded model)")
    add("--clip", metavar="NAME", help="text encoder: a file in ComfyUI's text_encoders, or a path")
    add("--clip-type", default="wan", help="its kind, as in ComfyUI's Load CLIP (default wan)")
    add("--lora", dest="loras", metavar="NAME:STRENGTH", type=_lora, action="append", default=[], help="repeatable")
    add("--shift", type=_positive, help="as ComfyUI's ModelSamplingSD3 sets it (default: the model's own)")
    add("--prompt", dest="prompts", metavar="TEXT", action="append", default=[], help="repeatable")
    add("--prompts", dest="file", metavar="FILE", type=Path, help="one prompt per line")
    add("--negative", metavar="TEXT", default="", help="negative prompt")
    add("--width", type=_count, help="of the video, in pixels")
    add("--height", type=_count)
    add("--frames", type=_count)
    add("--latent", nargs=4, type=_count, metavar=("C", "T", "H", "W"), help="shape of its latents, instead")
    add("--steps", type=_steps, default=30, help="default 30")
    add("--cfg", type=_not_negative, help="default 6; 3 for the embedded model")
    add("--sampler", default="euler", help="default euler")
    add("--scheduler", default="simple", help="default simple")
    group = parser.add_argument_group("the search")
    add = group.add_argument
    add("--budgets", type=_budgets, default=(0.5, 0.4, 0.3), help="shares of the work (default 0.5,0.4,0.3)")
    add("--effort", type=_positive, default=30.0, help="cost of the search in dense runs (default 30)")
    add("--cases", type=_count, default=4, help="clips to compare at most: prompts in turn, new seeds (default 4)")
    add("--seed", type=_seed, default=0, help="of the first clip, and of the search's own choices")
    methods = "; ".join(f"{name}: {description}" for name, description in METHOD_DESCRIPTIONS.items())
    add("--method", choices=list(METHOD_DESCRIPTIONS), default=ASTRAEA, help=f"{methods} (default {ASTRAEA})")
    add(
        "--partial-step-overhead",
        "--floor",
        type=_share,
        metavar="SHARE",
        help="least cost of a partial step, as a share of a full step (default: measured)",
    )
    add(
        "--proxy",
        "--small-clips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run candidates on small clips first, for models that make videos from text",
    )
    add("--name", type=_name, default="searched", help="schedules are saved as NAME-0.50 and so on")
    add("--out", type=Path, metavar="FOLDER", help="for the schedules (default: where Astraea's nodes look for them)")
    add("--run-log", "--memo", type=Path, metavar="FOLDER", help="for the logs of runs (default: those of the node)")
    group = parser.add_argument_group("several GPUs or machines, by Ray")
    add = group.add_argument
    add("--workers", type=_count, default=0, metavar="N", help="processes to run candidates in, one per GPU")
    add("--address", help="of a running Ray (default: that of RAY_ADDRESS, else one is started here)")
    return parser


def _number(text: str, meaning: str, minimum: float, maximum: float = math.inf, *, exclusive: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not minimum <= number <= maximum or (exclusive and number == minimum):
        raise argparse.ArgumentTypeError(f"'{text}' is not {meaning}")
    return number


def _integer(text: str, meaning: str, minimum: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= minimum):
        raise argparse.ArgumentTypeError(f"'{text}' is not {meaning}")
    return int(text)


def _positive(text: str) -> float:
    return _number(text, "a number above 0", 0.0, exclusive=True)


def _share(text: str) -> float:
    return _number(text, "a share of 0 to 1", 0.0, 1.0)


def _not_negative(text: str) -> float:
    return _number(text, "a number of 0 or more", 0.0)


def _count(text: str) -> int:
    return _integer(text, "a whole number of 1 or more", 1)


def _steps(text: str) -> int:
    return _integer(text, "a whole number of 2 or more", 2)


def _seed(text: str) -> int:
    seed = _integer(text, "a whole number of 0 or more", 0)
    if seed > MAX_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is too large for a seed")
    return seed


def _lora(text: str) -> tuple[str, float]:
    name, colon, strength = text.rpartition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME:STRENGTH, such as style.safetensors:0.8")
    return name, _number(strength, "a strength", -math.inf)


def _argument_type(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function for the parser that reads an option's text; its errors become errors of the option."""

    def read(text: str) -> Any:
        try:
            return parse_text(text)
        except AstraeaError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


_budgets, _name = _argument_type(parse_budgets), _argument_type(check_search_name)
