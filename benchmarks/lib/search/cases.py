"""Prompts and seeds that schedules are searched on and tested on, and the runners of their cases."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from ..host.harness import sigmas_of

CALIBRATION, HELD_OUT = 64, 48
HELD_OUT_SEED, CALIBRATION_SEED = {"easy": 1000, "hard": 20000, "real": 30000}, 5000


def bench_for(model: Any, testbed: Any, sampling_config: dict[str, Any], pairs: Sequence[tuple[str, int]]) -> Any:
    """A HostBench over `(prompt, seed)` pairs; sampling_config: steps, cfg, sampler, scheduler, scale."""
    import comfy.samplers
    import torch

    from astraea.host.search.runner import Case, ComfyRunner

    shape = list(testbed.latent_shape)
    shape[-2:] = [2 * round(size * sampling_config.get("scale", 1.0) / 2) for size in shape[-2:]]
    cases = [
        Case(
            [[testbed.context(prompt)[None], {}]],
            [[testbed.context("")[None], {}]],
            {"samples": torch.zeros(shape)},
            seed,
        )
        for prompt, seed in pairs
    ]
    sigmas = sigmas_of(model, sampling_config["steps"], sampling_config.get("scheduler", "simple"))
    return ComfyRunner(
        model,
        cases,
        sampler=comfy.samplers.sampler_object(sampling_config["sampler"]),
        sigmas=torch.tensor(sigmas),
        cfg=sampling_config["cfg"],
    )


def calibration_pairs(testbed: Any, first_seed: int = CALIBRATION_SEED) -> list[tuple[str, int]]:
    """Captions of random scenes like those of training, without the testbed's own prompts."""
    captions = (testbed.draw(random.Random(first_seed + n), 6, 32, 32)[0][1] for n in itertools.count())
    prompts = itertools.islice((prompt for prompt in captions if prompt not in testbed.prompts), CALIBRATION)
    return [(prompt, first_seed - CALIBRATION_SEED + number) for number, prompt in enumerate(prompts)]


def held_out_pairs(testbed: Any, count: int, first_seed: int) -> list[tuple[str, int]]:
    """The testbed's prompts, the second half first, with their own seeds."""
    prompts, half = len(testbed.prompts), len(testbed.prompts) // 2
    return [(testbed.prompts[(half + number) % prompts], first_seed + number) for number in range(count)]


def psnr_of(loss: float) -> float:
    from astraea.search.problem.losses import mean_psnr

    return mean_psnr([loss])
