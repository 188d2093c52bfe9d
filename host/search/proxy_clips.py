"""Small clips to search on: prompts as they are, empty latents half as high and wide and a third as long."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from .setting import Case

MIN_VALUES = 128  # of a channel; smaller clips hold nothing that could go wrong
PATCH = 2  # latents a token, in height and width, of the models that are known
# What conditionings may hold besides the text; with anything else a clip of another size may be another task.
OF_ANY_SIZE = frozenset({"pooled_output", "guidance", "attention_mask", "frame_rate"})


def small_clips(cases: Sequence[Case], pairs: int) -> tuple[tuple[Case, ...], float] | None:
    """`pairs` cases, and a clip's share of a large one's values; None where large clips are needed.

    That is with latents that hold something (video or image to video), masks, control, areas, and small videos.
    """
    if not all(_is_text_to_video(case) for case in cases):
        return None
    shapes = [tuple(case.latent["samples"].shape) for case in cases]
    small = [_cut_down(shape) for shape in shapes]
    if any(math.prod(shape[2:]) < MIN_VALUES for shape in small):
        return None
    chosen = list(islice(cycle(zip(cases, small, strict=True)), pairs))
    clips = tuple(
        Case(case.positive, case.negative, {"samples": torch.zeros(shape)}, _seed(case, number))
        for number, (case, shape) in enumerate(chosen)
    )
    return clips, sum(map(math.prod, small)) / sum(map(math.prod, shapes))


def _cut_down(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """One clip `[1, C, T, H, W]` of half the size and a third of the length, in whole patches."""
    _, channels, frames, height, width = shape
    height, width = (max(PATCH, PATCH * round(side / 2 / PATCH)) for side in (height, width))
    return 1, channels, (frames + 2) // 3, height, width


def _seed(case: Case, number: int) -> int:
    return random.Random(f"small clip {number} {case.seed}").getrandbits(63)


def _is_text_to_video(case: Case) -> bool:
    latent = case.latent
    samples = latent["samples"]
    empty = samples.ndim == 5 and set(latent) <= {"samples", "downscale_ratio_spacial"} and not samples.any()
    return empty and all(_is_of_text(each) for each in (*case.positive, *case.negative))


def _is_of_text(conditioning: Sequence) -> bool:
    _, facts = conditioning
    return all(key in OF_ANY_SIZE or _is_plain(value) for key, value in facts.items())


def _is_plain(value: object) -> bool:
    """Nothing that a model would be given: host's nodes put None or False where there is nothing."""
    return value is None or value is False or (isinstance(value, Tensor) and value.numel() == 0)
