"""The models of a row, and runs of them in the host's sampler. Import after the host has been started."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from astraea.tiny.training.testbeds import TESTBEDS, Testbed

from ..host.harness import load_tiny
from .settings import PAIRS, Setting

EXPERTS = ("high", "low")


@dataclass(frozen=True)
class Part:
    """A model and the noise levels that it samples; several parts of a run follow one another."""

    model: Any
    levels: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.levels) - 1


@dataclass(frozen=True)
class Row:
    """A setting on a model. parts: of its dense run."""

    setting: Setting
    clips: str
    testbed: Testbed
    parts: tuple[Part, ...]

    @property
    def pairs(self) -> int:
        return PAIRS[self.testbed.name]

    def with_models(self, models: Sequence[Any]) -> tuple[Part, ...]:
        """The parts with other models, such as accelerated ones."""
        return tuple(replace(part, model=model) for part, model in zip(self.parts, models, strict=True))

    def in_steps(self, steps: int) -> tuple[Part, ...]:
        """The parts of a dense run in another number of steps, as a user sets it."""
        if len(self.parts) == 1:
            levels = levels_of(self.setting, self.parts[0].model, steps)
            return (replace(self.parts[0], levels=levels),)
        each = steps // len(self.parts)
        levels = levels_of(self.setting, self.parts[0].model, each * len(self.parts))
        return tuple(
            replace(part, levels=levels[number * each : (number + 1) * each + 1])
            for number, part in enumerate(self.parts)
        )


def make_row(setting: Setting, clips: str) -> Row:
    """Load what a row samples."""
    name, _, student = clips.partition(" ")
    testbed = TESTBEDS[name]
    patched = ModelSamplingSD3().patch(load_tiny(testbed.checkpoint), setting.shift)[0]
    students = EXPERTS if student == "experts" else (student,)
    models = [with_student(patched, testbed, each) if each else patched for each in students]
    row = Row(setting, clips, testbed, tuple(Part(model, ()) for model in models))
    return replace(row, parts=row.in_steps(setting.steps))


def with_student(model: Any, testbed: Testbed, student: str) -> Any:
    """The model with a student's LoRA, as the host's own loader applies it."""
    import comfy.utils

    return comfy.sd.load_lora_for_models(
        model, None, comfy.utils.load_torch_file(str(testbed.student(student))), 1.0, 0
    )[0]


def levels_of(setting: Setting, model: Any, steps: int) -> tuple[float, ...]:
    """Noise levels of a run; a list for another number of steps is stretched."""
    if not setting.levels:
        sampling = model.get_model_object("model_sampling")
        return tuple(float(level) for level in comfy.samplers.calculate_sigmas(sampling, setting.scheduler, steps))
    known = setting.levels
    places = [number * (len(known) - 1) / steps for number in range(steps + 1)]
    return tuple(
        known[int(place)] + (place % 1) * (known[min(int(place) + 1, len(known) - 1)] - known[int(place)])
        for place in places
    )


@dataclass(frozen=True)
class Pair:
    """A prompt and a seed. contexts: `[1, L, 4096]`."""

    positive: Tensor
    negative: Tensor
    seed: int
    shape: tuple[int, ...]


def pairs_of(testbed: Testbed, count: int, seed: int) -> list[Pair]:
    """The testbed's prompts in turn, each with its own seed.

    The negative context is one empty word longer than the prompts'. That is the same to the model, but the host cannot
    join the two into one call: EasyCache of ComfyUI 0.3.64 adds wrong rows in joined calls.
    """
    empty = testbed.context("")
    negative = torch.cat([empty, empty[:1]])[None]
    prompts = itertools.islice(itertools.cycle(testbed.prompts), count)
    return [
        Pair(testbed.context(prompt)[None], negative, seed + number, testbed.latent_shape)
        for number, prompt in enumerate(prompts)
    ]


def run(parts: Sequence[Part], setting: Setting, pair: Pair) -> tuple[Tensor, float]:
    """Sample a pair; returns the latents and the seconds. A later part continues without new noise."""
    latents = torch.zeros(pair.shape)
    noise = comfy.sample.prepare_noise(latents, pair.seed)
    positive, negative = [[pair.positive, {}]], [[pair.negative, {}]]
    began = time.perf_counter()
    with torch.inference_mode():
        for part in parts:
            latents = comfy.sample.sample_custom(
                part.model, noise, setting.cfg, comfy.samplers.sampler_object(setting.sampler),
                torch.tensor(part.levels), positive, negative, latents, seed=pair.seed, disable_pbar=True,
            )  # fmt: skip
            noise = torch.zeros_like(latents)
    return latents, time.perf_counter() - began
