"""Probes a sampler with a dummy model: the calls it makes, and how each prediction weighs in its latents.

Samplers that call the model several times a step need it for their budget to be kept, multistep solvers for what reuse
steps missed to be corrected. A sampler that cannot be probed is followed by its noise levels alone, without correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.samplers import KSAMPLER

from ...engine.sampler_profile import MAX_CALLS_PER_STEP, SamplerProfile, is_falling, is_same
from ...engine.solver import Solver

FOREIGN = (
    "this sampler is not among those that ComfyUI lists, or has a function among its options: reuse steps keep the "
    "newest prediction"
)
UNREADABLE = "how this sampler weighs its predictions could not be read: reuse steps keep the newest one"
CFG_PP = "forecasts do harm with CFG++ samplers: reuse steps keep the newest prediction"
OWN_CALLS = "this sampler chooses its model calls while it runs: nothing can be planned, so all of them are computed"
NOT_FALLING = "the noise levels do not fall from step to step, so every step is computed"
NO_STEPS = "the noise levels hold no step"

Answer = Callable[[int, torch.Tensor], torch.Tensor]


class _TooManyCalls(Exception):
    pass


class _Delegate:
    """Everything of an object but what is overridden here."""

    def __init__(self, target: Any, **overrides: Any):
        self.__dict__.update(overrides, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _DummyModel(_Delegate):
    """Stands in for the guider: notes the noise levels and latents it is given, answers as it was told to."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        call = len(self.requested)
        self.requested.append(float(sigma.flatten()[0]))
        self.latents.append(x.detach().double().flatten())
        if call > self.limit:
            raise _TooManyCalls
        told = self.answer(call, x)
        # CFG++ samplers put functions of their own after guidance, to get hold of the negative conditioning.
        for function in kwargs.get("model_options", {}).get("sampler_post_cfg_function", []):
            self.seen["after guidance"] = True
            told = function(
                {"denoised": told, "cond_denoised": told, "uncond_denoised": told, "sigma": sigma, "input": x}
            )
        return told


@dataclass(frozen=True)
class _Probe:
    """One run on the dummy model: noise levels asked for; latents at each call and at the end, `[calls + 1, columns]`.

    is_cfg_pp: whether the sampler looks at a conditioning's prediction besides the guided ones.
    """

    requested: list[float]
    latents: torch.Tensor
    is_cfg_pp: bool


def profile_of(guider: Any, sampler: Any, sigmas: torch.Tensor) -> SamplerProfile:
    """What a run of this sampler over these noise levels may rest on.

    Only the host's own samplers are probed, and only with options that are plain values: others may do more than
    compute, or keep a state that the run itself is to begin with.
    """
    levels = [float(level) for level in sigmas]
    if len(levels) < 2:
        return SamplerProfile.unknown(levels, full_reason=NO_STEPS)
    if not is_falling(levels):
        return SamplerProfile.unknown(levels, full_reason=NOT_FALLING)
    if not _can_be_probed(sampler):
        return SamplerProfile.unknown(levels, FOREIGN)
    try:
        return _probed(guider, sampler, sigmas, levels)
    except _TooManyCalls:
        return SamplerProfile.unknown(levels, full_reason=OWN_CALLS)
    except Exception:  # a sampler that cannot run so is simply not known beforehand
        return SamplerProfile.unknown(levels, UNREADABLE)


def _can_be_probed(sampler: Any) -> bool:
    function = getattr(sampler, "sampler_function", None)
    if type(sampler) is not KSAMPLER or not getattr(function, "__module__", "").startswith("comfy."):
        return False
    return _is_plain(getattr(sampler, "extra_options", {})) and _is_plain(getattr(sampler, "inpaint_options", {}))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _probed(guider: Any, sampler: Any, sigmas: torch.Tensor, levels: list[float]) -> SamplerProfile:
    """Impulses in columns of the latents: one at each call; one that begins at 1 and is told nothing; one always 1."""
    half = _run(guider, sampler, sigmas, torch.ones(1), lambda call, x: x * 0.5)
    calls = len(half.requested)
    begin = torch.zeros(calls + 2)
    noise = _run(guider, sampler, sigmas, begin, lambda call, x: torch.zeros_like(x))  # what the sampler adds by itself
    begin[-2] = 1.0

    def impulses(call: int, x: torch.Tensor) -> torch.Tensor:
        answer = torch.zeros_like(x)
        if call < calls:
            answer[..., call] = answer[..., -1] = 1.0
        return answer

    found = _run(guider, sampler, sigmas, begin, impulses)
    if not (_same_calls(half.requested, noise.requested) and _same_calls(half.requested, found.requested)):
        return SamplerProfile.unknown(levels, full_reason=OWN_CALLS)
    if half.is_cfg_pp:
        return SamplerProfile.of_calls(levels, half.requested, None, CFG_PP)
    return SamplerProfile.of_calls(levels, half.requested, _solver(found.latents - noise.latents), UNREADABLE)


def _solver(latents: torch.Tensor) -> Solver | None:
    """None where the sampler is not linear in what it is told, or remembers too much."""
    impulses, begun, always = latents[:, :-2], latents[:, -2], latents[:, -1]
    if not torch.isfinite(latents).all():
        return None
    if not torch.allclose(impulses.sum(1), always, rtol=1e-3, atol=1e-4 * float(always.abs().max())):
        return None
    return Solver.from_impulse_response(impulses.tolist(), begun.tolist())


def _same_calls(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(map(is_same, one, other))


def _run(guider: Any, sampler: Any, sigmas: torch.Tensor, begin: torch.Tensor, answer: Answer) -> _Probe:
    """begin: latents to begin with, `[columns]`."""
    start = begin.view(1, 1, 1, 1, -1).clone()
    patcher = guider.model_patcher
    inner = _Delegate(patcher.model, model_sampling=patcher.get_model_object("model_sampling"))
    dummy = _DummyModel(
        guider,
        inner_model=inner,
        requested=[],
        latents=[],
        limit=MAX_CALLS_PER_STEP * len(sigmas),
        answer=answer,
        seen={},
    )
    options = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 0}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would reach GPUs, too
        # A copy of the noise levels, as samplers change theirs.
        levels = sigmas.detach().cpu().float().clone()
        end = sampler.sample(dummy, levels, options, None, start, torch.zeros_like(start), None, True)
    return _Probe(dummy.requested, torch.stack([*dummy.latents, end.double().flatten()]), bool(dummy.seen))
