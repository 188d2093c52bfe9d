"""The wrappers through which a run lives: begun and ended with the sampler, consulted at every model call."""

from __future__ import annotations

import logging
import time
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from ...engine.block_hooks import swapped_forwards
from ...engine.calls.base import ReuseCall
from ...engine.interface import RowGroup
from ...engine.plan import Plan
from ...engine.run import CallSite, Run
from ...engine.sampler_profile import SamplerProfile
from ...errors import UnsupportedModel
from ...models import Architecture, describe
from .attachment import KEY, RUN_KEY, ActiveRun
from .attention import RunAttention
from .casting import cast_like
from .cond_groups import row_groups
from .guiders import context_length, guidance_scale, second_model_note
from .memory import announced_bytes, enlarged_shape
from .sampler_probe import profile_of

CALLBACK, SEED = 5, 7  # places among the arguments of OUTER_SAMPLE


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE: owns one run. args: noise, latent image, sampler, sigmas, denoise mask, callback, …, seed."""
    guider = executor.class_obj
    attachment = guider.model_options.get("transformer_options", {}).get(KEY)
    if attachment is None:
        return executor(*args, **kwargs)
    began = time.perf_counter()
    original_options = guider.model_options
    seed = _argument(args, kwargs, SEED, "seed")
    active = _begin(guider, attachment.plan, noise=args[0], sampler=args[2], sigmas=args[3], seed=seed)
    active.observe = attachment.observe
    args, kwargs = _with_step_reports(args, kwargs, active.run)
    finished = False
    try:
        guider.model_options = comfy.model_patcher.create_model_options_clone(original_options)
        guider.model_options["transformer_options"][RUN_KEY] = active
        _watch_for_skipping(guider.model_options["transformer_options"], active)
        output = executor(*args, **kwargs)
        finished = True
        return output
    finally:
        guider.model_options = original_options
        active.run.report.note(active.options.note())
        report = active.run.finish()
        report.seconds, report.finished = time.perf_counter() - began, finished
        attachment.handle.add(report)
        if attachment.observe is None:  # who observes makes many runs, and tells of them itself
            logging.info(f"Astraea: {'' if finished else 'stopped early; '}{report.summary()}")


def _argument(args: tuple, kwargs: dict, place: int, name: str) -> Any:
    """Hosts pass some arguments by position, others by name."""
    return kwargs[name] if name in kwargs else args[place] if len(args) > place else None


def _with_step_reports(args: tuple, kwargs: dict, run: Run) -> tuple[tuple, dict]:
    """The arguments with a callback that tells the run, too, when the sampler is done with a step."""
    callback = _argument(args, kwargs, CALLBACK, "callback")

    def on_step(step: int, denoised: Any, x: Any, total: int) -> Any:
        run.on_step(int(step))
        return callback(step, denoised, x, total) if callback is not None else None

    if "callback" in kwargs or len(args) <= CALLBACK:
        return args, {**kwargs, "callback": on_step}
    return (*args[:CALLBACK], on_step, *args[CALLBACK + 1 :]), kwargs


def _watch_for_skipping(transformer_options: dict, active: ActiveRun) -> None:
    """Where another pack's wrapper may answer in the model's place, put one inside of it that sees the model begin."""
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    if any(wrappers.values()):
        active.sees_model = True
        wrappers[RUN_KEY] = [active.model_wrapper()]


def _begin(guider: Any, plan: Any, *, noise: Any, sampler: Any, sigmas: Any, seed: int | None) -> ActiveRun:
    try:
        architecture = describe(guider.model_patcher.get_model_object("diffusion_model"), cast_like)
    except UnsupportedModel as reason:
        levels = [float(level) for level in sigmas]
        run = Run(plan, levels, profile=SamplerProfile.unknown(levels, full_reason=str(reason)))
        return ActiveRun(run, RunAttention(plan.attention, run.report))
    layout = architecture.layout(tuple(noise.shape), {})
    run = Run(
        plan,
        [float(level) for level in sigmas],
        profile=_profile(plan, guider, sampler, sigmas),
        cost=architecture.cost(layout.video, context_length(guider)),
        family=architecture.family,
        seed=seed or 0,
        guidance=guidance_scale(guider),
    )
    if plan.schedule.family not in (architecture.family, "any"):
        run.report.note(
            f"schedule '{plan.schedule.name}' was made for {plan.schedule.family}, this model is {architecture.family}"
        )
    run.report.note(second_model_note(guider, KEY))
    run.report.announced_bytes = announced_bytes(run, architecture, guider, tuple(noise.shape))
    return ActiveRun(run, RunAttention(plan.attention, run.report), announced_bytes=run.report.announced_bytes)


def _profile(plan: Plan, guider: Any, sampler: Any, sigmas: torch.Tensor) -> SamplerProfile:
    """At full budget nothing is asked of the sampler: even its random numbers stay as they were."""
    if plan.is_full:
        return SamplerProfile.unknown([float(level) for level in sigmas])
    return profile_of(guider, sampler, sigmas)


def prepare_sampling(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING: asks the host for room for the caches while it decides how much of the weights to load."""
    options = kwargs.get("model_options") or next((a for a in args[1:] if isinstance(a, dict)), {})
    active = options.get("transformer_options", {}).get(RUN_KEY)
    if active is not None and active.announced_bytes > 0:
        noise_shape = enlarged_shape(model.model, tuple(noise_shape), active.announced_bytes)
    return executor(model, noise_shape, *args, **kwargs)


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """APPLY_MODEL: one model call. args: x, t, c_concat, c_crossattn, control, transformer_options."""
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[5] if len(args) > 5 else {}
    active = options.get(RUN_KEY)
    if active is None:
        return executor(*args, **kwargs)
    comfy.model_management.throw_exception_if_processing_interrupted()
    try:
        architecture = active.architecture(executor.class_obj.diffusion_model, lambda model: describe(model, cast_like))
    except UnsupportedModel as reason:
        active.run.report.note(str(reason))
        return executor(*args, **kwargs)
    active.options.see(_sigma(options) or 0.0, options)
    site = _site(args[0], options, kwargs, architecture, active.attention)
    call = active.run.open_call(site)
    if isinstance(call, ReuseCall):
        denoised = call.estimate()
    else:
        call.skipped = active.sees_model
        with active.running(call), swapped_forwards(architecture.blocks, call):
            denoised = executor(*args, **kwargs)
        if active.observe is not None:
            active.observe(call.step, args[0], denoised, site.groups)
    return active.run.close_call(call, denoised)


def _sigma(options: dict) -> float | None:
    sigmas = options.get("sigmas")
    return float(sigmas.flatten()[0]) if sigmas is not None else None


def _why_full(groups: tuple[RowGroup, ...], options: dict) -> str:
    """Why this call runs in full, whatever the schedule says."""
    if not groups or options.get("sigmas") is None:
        return "the host did not say which conditionings are in the call"
    if options.get("ar_state") is not None:
        return "frames are made one after another, and each goes on from what the model itself keeps of the last"
    return ""


def _site(
    x: torch.Tensor, options: dict, conditions: dict, architecture: Architecture, attention: RunAttention
) -> CallSite:
    groups = row_groups(x, options)
    layout = architecture.layout(tuple(x.shape), conditions)
    return CallSite(
        sigma=_sigma(options) or 0.0,
        groups=groups,
        layout=layout,
        runner=architecture.runner,
        attend=attention.for_call(options, layout.total),
        blocks=len(architecture.blocks),
        device=x.device,
        why_full=_why_full(groups, options),
    )
