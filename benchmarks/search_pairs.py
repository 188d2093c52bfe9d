"""Prompts and seeds that schedules are searched on and held out for `search.py`, and benches that run them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

CALIBRATION, HELD_OUT = 64, {"easy": 48, "hard": 48}
HELD_OUT_SEEDS_FROM, CALIBRATION_SEED = {"easy": 1000, "hard": 20000}, 5000


def bench_for(model: Any, testbed: Any, way: dict[str, Any], pairs: Sequence[tuple[str, int]], kind: Any = None) -> Any:
    """A bench over `(prompt, seed)` pairs; way: steps, cfg, sampler, scale; kind: its class, HostBench or one of it."""
    import comfy.samplers
    import torch
    from harness import sigmas_of

    from astraea.host.search.runner import Case, ComfyRunner

    shape = list(testbed.latent_shape)
    shape[-2:] = [2 * round(size * way.get("scale", 1.0) / 2) for size in shape[-2:]]
    cases = [
        Case(
            [[testbed.context(prompt)[None], {}]],
            [[testbed.context("")[None], {}]],
            {"samples": torch.zeros(shape)},
            seed,
        )
        for prompt, seed in pairs
    ]
    return (kind or ComfyRunner)(
        model,
        cases,
        sampler=comfy.samplers.sampler_object(way["sampler"]),
        sigmas=torch.tensor(sigmas_of(model, way["steps"], way.get("scheduler", "simple"))),
        cfg=way["cfg"],
    )


def calibration_pairs(testbed: Any, drawn_from: int = CALIBRATION_SEED) -> list[tuple[str, int]]:
    """Captions of scenes drawn as those of training are; none is a prompt that is held out."""
    drawn = (testbed.draw(random.Random(drawn_from + n), 6, 32, 32)[0][1] for n in itertools.count())
    prompts = itertools.islice((prompt for prompt in drawn if prompt not in testbed.prompts), CALIBRATION)
    return [(prompt, drawn_from - CALIBRATION_SEED + number) for number, prompt in enumerate(prompts)]


def held_out_pairs(testbed: Any, count: int) -> list[tuple[str, int]]:
    """The testbed's prompts, the second half first, with seeds of their own."""
    prompts, half = len(testbed.prompts), len(testbed.prompts) // 2
    first = HELD_OUT_SEEDS_FROM[testbed.name]
    return [(testbed.prompts[(half + number) % prompts], first + number) for number in range(count)]


def psnr_of(loss: float) -> float:
    from astraea.search.evaluation.evaluator import mean_psnr

    return mean_psnr([loss])
