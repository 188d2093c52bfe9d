"""ComfyUI's samplers and schedulers: names for a node's lists, SAMPLER objects, noise levels as KSampler's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor


@dataclass(frozen=True)
class SamplerInputs:
    """Inputs of SamplerCustom. sampler: a SAMPLER; sigmas: noise levels including the last; cfg: guidance scale."""

    sampler: Any
    sigmas: Tensor
    cfg: float


def sampler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)


def sampler_named(name: str) -> Any:
    """Return the SAMPLER of this name."""
    return comfy.samplers.sampler_object(name)


def sigmas_of(model: Any, steps: int, sampler_name: str, scheduler: str) -> Tensor:
    """Return the noise levels of a KSampler with these widgets, which drops one level for some samplers."""
    return comfy.samplers.KSampler(model, steps, "cpu", sampler_name, scheduler, 1.0).sigmas
