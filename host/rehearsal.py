"""How many model calls a sampler makes per step, found by letting it run on a single number.

Heun and its like call the model twice for most steps: without knowing that, a mean budget cannot be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.samplers import KSAMPLER

MOST_CALLS_PER_STEP = 12


class _TooManyCalls(Exception):
    pass


class _Delegate:
    """Everything of an object but what is overridden here."""

    def __init__(self, target: Any, **overrides: Any):
        self.__dict__.update(overrides, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _Stage(_Delegate):
    """Stands in for the guider: notes the noise levels it is asked about."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.asked.append(float(sigma.flatten()[0]))
        if len(self.asked) > self.limit:
            raise _TooManyCalls
        return x * 0.5


def asked_sigmas(guider: Any, sampler: Any, sigmas: torch.Tensor) -> list[float]:
    """The noise levels at which the sampler would call the model, in order; empty when that cannot be told.

    Only the host's own samplers are rehearsed: foreign ones may do more than compute.
    """
    function = getattr(sampler, "sampler_function", None)
    if type(sampler) is not KSAMPLER or not getattr(function, "__module__", "").startswith("comfy."):
        return []
    patcher = guider.model_patcher
    inner = _Delegate(patcher.model, model_sampling=patcher.get_model_object("model_sampling"))
    asked: list[float] = []
    limit = MOST_CALLS_PER_STEP * len(sigmas)
    stage = _Stage(guider, inner_model=inner, asked=asked, limit=limit)
    one = torch.ones((1,) * 5)
    options = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 0}
    try:
        with torch.random.fork_rng(devices=[]):
            sampler.sample(stage, sigmas.cpu(), options, None, one.clone(), torch.zeros_like(one), None, True)
    except Exception:  # a sampler that cannot run so is simply not known beforehand
        return []
    return asked


def evaluations_per_step(asked: Sequence[float], sigmas: Sequence[float]) -> list[int] | None:
    """Calls per step; None when nothing is known or a step would get none."""
    steps = len(sigmas) - 1
    if not asked or steps < 1:
        return None
    counts = [0] * steps
    for sigma in asked:
        reached = sum(level >= sigma - 1e-6 for level in sigmas)
        counts[min(max(reached - 1, 0), steps - 1)] += 1
    return counts if sum(counts) else None
