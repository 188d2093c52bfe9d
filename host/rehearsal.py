"""How a sampler goes about it, found by letting it run on a few numbers: calls per step, weights of predictions.

Heun and its like call the model twice for most steps: without knowing that, a mean budget cannot be kept. Multistep
solvers use predictions again: without knowing that, what reuse steps missed cannot be made good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.samplers import KSAMPLER

from ..engine.solver import Solver

MOST_CALLS_PER_STEP = 12
SAME_LEVEL = 1e-4  # some samplers keep off a noise level of 1 by less than this

Answer = Callable[[int, torch.Tensor], torch.Tensor]


class _TooManyCalls(Exception):
    pass


class _Delegate:
    """Everything of an object but what is overridden here."""

    def __init__(self, target: Any, **overrides: Any):
        self.__dict__.update(overrides, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _Stage(_Delegate):
    """Stands in for the guider: notes the noise levels and latents it is asked about, answers as it was told to."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        call = len(self.asked)
        self.asked.append(float(sigma.flatten()[0]))
        self.latents.append(x.detach().double().flatten())
        if call > self.limit:
            raise _TooManyCalls
        return self.answer(call, x)


def _half(call: int, x: torch.Tensor) -> torch.Tensor:
    return x * 0.5


def _nothing(call: int, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


def _impulses(call: int, x: torch.Tensor) -> torch.Tensor:
    """1 in column `call` and in the last one; the last but one is told nothing."""
    answer = torch.zeros_like(x)
    if call < x.shape[-1] - 2:
        answer[..., call] = answer[..., -1] = 1.0
    return answer


@dataclass(frozen=True)
class Rehearsal:
    """How a sampler will go about a run over `sigmas`.

    asked: the noise levels at which it calls the model, in order; latents: how they answer to an impulse at each call,
    at every call and at the end, `[calls + 1, steps + 2]`, None if unknown. The last column is told 1 all the time, the
    one before it nothing, but begins at 1.
    """

    sigmas: list[float]
    asked: list[float]
    latents: torch.Tensor | None

    def evaluations(self) -> list[int] | None:
        """Calls per step; None when a step would get none."""
        return evaluations_per_step(self.asked, self.sigmas)

    def solver(self) -> Solver | None:
        """None where steps do not have one call each, or the sampler is not linear in what it is told."""
        latents, steps = self.latents, len(self.sigmas) - 1
        if latents is None or latents.shape[0] != steps + 1 or not torch.isfinite(latents).all():
            return None
        if any(abs(asked - level) > SAME_LEVEL for asked, level in zip(self.asked, self.sigmas, strict=False)):
            return None
        impulses, begun, always = latents[:, :steps], latents[:, steps], latents[:, -1]
        if not torch.allclose(impulses.sum(1), always, rtol=1e-3, atol=1e-4 * float(always.abs().max())):
            return None
        return Solver.of_responses(impulses.tolist(), begun.tolist())


def rehearse(guider: Any, sampler: Any, sigmas: torch.Tensor) -> Rehearsal | None:
    """Let the sampler run on a few numbers; None when that cannot be done.

    Only the host's own samplers are rehearsed: foreign ones may do more than compute.
    """
    function = getattr(sampler, "sampler_function", None)
    if type(sampler) is not KSAMPLER or not getattr(function, "__module__", "").startswith("comfy."):
        return None
    begin = torch.zeros(1, 1, 1, 1, len(sigmas) + 1)
    counted = _run(guider, sampler, sigmas, torch.ones_like(begin), _half)
    if counted is None:
        return None
    noise = _run(guider, sampler, sigmas, begin.clone(), _nothing)  # what the sampler adds by itself
    begin[..., -2] = 1.0
    told = _run(guider, sampler, sigmas, begin, _impulses)
    latents = None
    if told is not None and noise is not None and told[1].shape == noise[1].shape:
        latents = told[1] - noise[1]
    return Rehearsal([float(level) for level in sigmas], counted[0], latents)


def _run(
    guider: Any, sampler: Any, sigmas: torch.Tensor, begin: torch.Tensor, answer: Answer
) -> tuple[list[float], torch.Tensor] | None:
    """Noise levels asked for; latents at each call and at the end, `[calls + 1, …]`."""
    patcher = guider.model_patcher
    inner = _Delegate(patcher.model, model_sampling=patcher.get_model_object("model_sampling"))
    limit = MOST_CALLS_PER_STEP * len(sigmas)
    stage = _Stage(guider, inner_model=inner, asked=[], latents=[], limit=limit, answer=answer)
    options = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 0}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` would reach GPUs, too
            # A copy of the noise levels, as samplers change theirs.
            end = sampler.sample(stage, sigmas.cpu().clone(), options, None, begin, torch.zeros_like(begin), None, True)
    except Exception:  # a sampler that cannot run so is simply not known beforehand
        return None
    return stage.asked, torch.stack([*stage.latents, end.double().flatten()])


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
