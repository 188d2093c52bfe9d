"""Small clips for a search: the same prompts, empty latents of half the height and width and a third of the length."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from .setting import Case

MIN_VALUES = 128  # per channel; a smaller clip is too small to show errors
PATCH = 2  # latents per token in height and width, of the known models
# Conditioning keys, besides the text, that do not depend on the size. With others, a small clip may be another task.
SIZE_INDEPENDENT = frozenset({"pooled_output", "guidance", "attention_mask", "frame_rate"})


def make_proxy_clips(cases: Sequence[Case], count: int) -> tuple[tuple[Case, ...], float] | None:
    """Return `count` small cases, and their size as a share of a full-size clip's; None if small clips cannot be used.

    That is so if latents are not empty (video or image to video), with masks, control or areas, and for small videos.
    """
    if not all(_is_text_to_video(case) for case in cases):
        return None
    shapes = [tuple(case.latent["samples"].shape) for case in cases]
    small = [_small_shape(shape) for shape in shapes]
    if any(math.prod(shape[2:]) < MIN_VALUES for shape in small):
        return None
    chosen = list(islice(cycle(zip(cases, small, strict=True)), count))
    clips = tuple(
        Case(case.positive, case.negative, {"samples": torch.zeros(shape)}, _seed(case, number))
        for number, (case, shape) in enumerate(chosen)
    )
    return clips, sum(map(math.prod, small)) / sum(map(math.prod, shapes))


def _small_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Return one clip `[1, C, T, H, W]` of half the size and a third of the length, in whole patches."""
    _, channels, frames, height, width = shape
    height, width = (max(PATCH, PATCH * round(side / 2 / PATCH)) for side in (height, width))
    return 1, channels, (frames + 2) // 3, height, width


def _seed(case: Case, number: int) -> int:
    return random.Random(f"small clip {number} {case.seed}").getrandbits(63)


def _is_text_to_video(case: Case) -> bool:
    latent = case.latent
    samples = latent["samples"]
    is_empty = samples.ndim == 5 and set(latent) <= {"samples", "downscale_ratio_spacial"} and not samples.any()
    return is_empty and all(_is_text(each) for each in (*case.positive, *case.negative))


def _is_text(conditioning: Sequence) -> bool:
    _, facts = conditioning
    return all(key in SIZE_INDEPENDENT or _is_unset(value) for key, value in facts.items())


def _is_unset(value: object) -> bool:
    """Tell whether a model does not get this value: ComfyUI's nodes set None or False for a missing input."""
    return value is None or value is False or (isinstance(value, Tensor) and value.numel() == 0)
