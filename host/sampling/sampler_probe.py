"""Probes a sampler with a dummy model: its model calls, and the weight of each prediction in its latents.

The calls are needed to keep the budget of samplers that make several a step, the weights to correct skipped steps. A
sampler that cannot be probed is followed by its noise levels alone, without correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.samplers import KSAMPLER

from ...engine.sampler.profile import MAX_CALLS_PER_STEP, SamplerProfile, is_falling, is_same
from ...engine.sampler.solver import Solver
from .levels import latent_scale_of, level_of

NOT_PROBED = (
    "this sampler is not among those that ComfyUI lists, or has a function among its options: skipped steps keep the "
    "newest prediction"
)
UNREADABLE = "how this sampler weighs its predictions could not be read: skipped steps keep the newest one"
CFG_PP = "forecasts do harm with CFG++ samplers: skipped steps keep the newest prediction"
OWN_CALLS = "this sampler chooses its model calls while it runs: nothing can be planned, so all of them are computed"
NOT_FALLING = "the noise levels do not fall from step to step, so every step is computed"
NO_STEPS = "the noise levels hold no step"

Answer = Callable[[int, torch.Tensor], torch.Tensor]


class _TooManyCalls(Exception):
    pass


class _Delegate:
    """Stands for an object: has its attributes, except for those that are given here."""

    def __init__(self, target: Any, **overrides: Any):
        self.__dict__.update(overrides, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _DummyModel(_Delegate):
    """Stands for the guider: notes the sigmas and latents of its calls, and returns what `answer` predicts."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        call = len(self.sigmas)
        self.sigmas.append(float(sigma.flatten()[0]))
        self.latents.append(x.detach().double().flatten())
        if call > self.limit:
            raise _TooManyCalls
        denoised = self.answer(call, x)
        # CFG++ samplers install functions after guidance, to get the negative conditioning.
        for function in kwargs.get("model_options", {}).get("sampler_post_cfg_function", []):
            self.seen["after guidance"] = True
            denoised = function(
                {
                    "denoised": denoised,
                    "cond_denoised": denoised,
                    "uncond_denoised": denoised,
                    "sigma": sigma,
                    "input": x,
                }
            )
        return denoised


@dataclass(frozen=True)
class _Probe:
    """One run on the dummy model.

    sigmas: of the calls; latents: at each call and at the end, `[calls + 1, columns]`; is_cfg_pp: the
    sampler uses a conditioning's prediction besides the guided one.
    """

    sigmas: list[float]
    latents: torch.Tensor
    is_cfg_pp: bool


def profile_of(guider: Any, sampler: Any, sigmas: torch.Tensor) -> SamplerProfile:
    """Return the profile of a run of this sampler over these noise levels.

    Only the host's own samplers are probed, and only with options that are plain values: others may do more than
    compute, or keep a state from the probe to the run.
    """
    level = level_of(guider.model_patcher.get_model_object("model_sampling"))
    levels = [level(float(sigma)) for sigma in sigmas]
    if len(levels) < 2:
        return SamplerProfile.unknown(levels, full_reason=NO_STEPS)
    if not is_falling(levels):
        return SamplerProfile.unknown(levels, full_reason=NOT_FALLING)
    if not _can_be_probed(sampler):
        return SamplerProfile.unknown(levels, NOT_PROBED)
    try:
        return _probed(guider, sampler, sigmas, levels)
    except _TooManyCalls:
        return SamplerProfile.unknown(levels, full_reason=OWN_CALLS)
    except Exception:  # nobody can know all samplers that do not run on the dummy model, nor what they raise
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


def _probed(guider: Any, sampler: Any, sigmas: torch.Tensor, levels: Sequence[float]) -> SamplerProfile:
    """Probe with a column of the latents per impulse: at each prediction, at the first latents, at all predictions."""
    half = _run(guider, sampler, sigmas, torch.ones(1), lambda call, x: x * 0.5)
    calls = len(half.sigmas)
    begin = torch.zeros(calls + 2)
    noise = _run(guider, sampler, sigmas, begin, lambda call, x: torch.zeros_like(x))  # what the sampler adds by itself
    begin[-2] = 1.0

    def impulses(call: int, x: torch.Tensor) -> torch.Tensor:
        answer = torch.zeros_like(x)
        if call < calls:
            answer[..., call] = answer[..., -1] = 1.0
        return answer

    found = _run(guider, sampler, sigmas, begin, impulses)
    if not (_same_calls(half.sigmas, noise.sigmas) and _same_calls(half.sigmas, found.sigmas)):
        return SamplerProfile.unknown(levels, full_reason=OWN_CALLS)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    level, scale = level_of(sampling), latent_scale_of(sampling)
    called = [level(sigma) for sigma in half.sigmas]
    if half.is_cfg_pp:
        return SamplerProfile.of_calls(levels, called, None, CFG_PP)
    scales = [scale(sigma) for sigma in (*half.sigmas, float(sigmas[-1]))]
    latents = (found.latents - noise.latents) * torch.tensor(scales, dtype=torch.float64).unsqueeze(1)
    latents[:, -2] /= scales[0]  # per unit of the first latents, on the same scale
    return SamplerProfile.of_calls(levels, called, _solver(latents), UNREADABLE)


def _solver(latents: torch.Tensor) -> Solver | None:
    """Return the solver; None where the sampler is not linear in the predictions, or reuses too many.

    latents: before each call and at the end, by impulse: of each prediction, of the first latents, of all predictions.
    """
    impulses, begun, always = latents[:, :-2], latents[:, -2], latents[:, -1]
    if not torch.isfinite(latents).all():
        return None
    if not torch.allclose(impulses.sum(1), always, rtol=1e-3, atol=1e-4 * float(always.abs().max())):
        return None
    return Solver.from_impulse_response(impulses.tolist(), begun.tolist())


def _same_calls(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(map(is_same, one, other))


def _run(guider: Any, sampler: Any, sigmas: torch.Tensor, begin: torch.Tensor, answer: Answer) -> _Probe:
    """Run the sampler on the dummy model. begin: the first latents, `[columns]`."""
    start = begin.view(1, 1, 1, 1, -1).clone()
    patcher = guider.model_patcher
    inner = _Delegate(patcher.model, model_sampling=patcher.get_model_object("model_sampling"))
    dummy = _DummyModel(
        guider,
        inner_model=inner,
        sigmas=[],
        latents=[],
        limit=MAX_CALLS_PER_STEP * len(sigmas),
        answer=answer,
        seen={},
    )
    options = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 0}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would reach GPUs, too
        # A copy of the noise levels, as samplers change theirs.
        copied = sigmas.detach().cpu().float().clone()
        end = sampler.sample(dummy, copied, options, None, start, torch.zeros_like(start), None, True)
    return _Probe(dummy.sigmas, torch.stack([*dummy.latents, end.double().flatten()]), bool(dummy.seen))
