"""Runners of searches on a row's model. Import after the host has been started."""

from __future__ import annotations

import itertools
import random
from typing import Any

import comfy.samplers
import torch

from astraea.host.search.runner import Case, ComfyRunner

from .models import Row

CASES, CALIBRATION_SEED = 16, 5000


def runner_of(row: Row, pairs: list[tuple[str, int]]) -> ComfyRunner:
    """The node's runner over `(prompt, seed)` pairs."""
    testbed, part = row.testbed, row.parts[0]
    empty, latents = testbed.context("")[None], torch.zeros(testbed.latent_shape)
    cases = [
        Case([[testbed.context(prompt)[None], {}]], [[empty, {}]], {"samples": latents}, seed) for prompt, seed in pairs
    ]
    sampler = comfy.samplers.sampler_object(row.setting.sampler)
    return ComfyRunner(part.model, cases, sampler=sampler, sigmas=torch.tensor(part.levels), cfg=row.setting.cfg)


def searched_pairs(testbed: Any) -> list[tuple[str, int]]:
    """Captions of random scenes like those of training, without the testbed's own prompts."""
    captions = (testbed.draw(random.Random(CALIBRATION_SEED + n), 6, 32, 32)[0][1] for n in itertools.count())
    prompts = itertools.islice((prompt for prompt in captions if prompt not in testbed.prompts), CASES)
    return [(prompt, number) for number, prompt in enumerate(prompts)]
